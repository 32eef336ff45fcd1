#!/usr/bin/env bash
# Runs every benchmark once, unmeasured, so that none can rot. `cargo bench -p benches` measures.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo bench --locked --package benches -- --test
