#!/usr/bin/env bash
# Each published crate as its user builds it. In a build of the whole workspace, features that one
# member asks of a dependency are on for all members, which hides a feature that is not asked for.
set -euo pipefail
cd "$(dirname "$0")/.."
for crate in handle-passing ipc-core scheduler runtime; do
    cargo clippy --locked --package "$crate" -- -D warnings
done
