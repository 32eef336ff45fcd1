#!/usr/bin/env bash
# Licences, banned crates and sources of all dependencies, by deny.toml. Not the advisories: their
# database is on GitHub, which a build machine may not reach; `cargo deny check advisories` by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo deny --version 2>/dev/null; then
    echo "skipped: cargo-deny is not installed, and takes minutes to build;"
    echo "         cargo install --locked cargo-deny"
    exit 0
fi
cargo deny --locked check licenses bans sources
