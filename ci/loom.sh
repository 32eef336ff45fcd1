#!/usr/bin/env bash
# The ring's core under loom, a model checker: all orders of its two sides' steps, up to three
# switches of threads at a time. `LOOM_MAX_PREEMPTIONS=4 ci/loom.sh` goes further, and takes longer.
set -euo pipefail
cd "$(dirname "$0")/.."
# The model checker is slow without optimization, and optimizing all of it takes longer.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0
export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-3}
cargo test --locked -p ipc-core --lib ring::core::model "$@"
