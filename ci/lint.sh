#!/usr/bin/env bash
# Clippy on everything, tests and benches too. `--locked`: a Cargo.lock that is behind fails here.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
