#!/usr/bin/env bash
# Formatting, by rustfmt.toml. `cargo fmt --all` repairs it.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
