#!/usr/bin/env bash
# The documentation without a warning: once with private items, so that a link in a private
# module's essay cannot rot, and then the public pages, which may not link to private items.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTDOCFLAGS="-D warnings"
cargo doc --locked --workspace --all-features --no-deps --document-private-items
cargo doc --locked --workspace --all-features --no-deps
