#!/usr/bin/env bash
# All tests: unit, integration, doc tests, and the fuzz bodies over their committed corpus.
# Arguments go to cargo: `ci/test.sh -p scheduler`.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then set -- --workspace --all-features; fi
cargo test --locked "$@"
