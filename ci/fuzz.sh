#!/usr/bin/env bash
# Fuzzes every target for a few seconds: `ci/fuzz.sh [SECONDS] [TARGET...]`, 5 seconds by default.
# Installs cargo-fuzz (half a minute) and, as root on Debian, the C++ compiler that libFuzzer needs.
# Inputs go to a scratch directory: the committed corpus is read, never written. To fuzz for
# longer and keep what is found, use `cargo +nightly fuzz run TARGET`.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}
[ $# -eq 0 ] || shift

if ! command -v "${CXX:-c++}" >/dev/null; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "libFuzzer is C++: install a C++ compiler (Debian: apt-get install g++)" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y g++
fi
cargo fuzz --version 2>/dev/null || cargo install --locked cargo-fuzz

# The sanitizer flags are unstable: a nightly has them, a stable compiler when told so.
fuzz=(cargo fuzz)
if rustup toolchain list 2>/dev/null | grep -q ^nightly; then
    fuzz=(cargo +nightly fuzz)
else
    export RUSTC_BOOTSTRAP=1
fi

targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <("${fuzz[@]}" list)
[ ${#targets[@]} -gt 0 ] || { echo "no fuzz targets" >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
[ $# -gt 0 ] || "${fuzz[@]}" build # Everything once; after that `run` only starts what is built.
for target in "${targets[@]}"; do
    echo "--- fuzz $target for ${seconds}s"
    corpora=("$scratch/$target") # libFuzzer writes to the first directory only.
    mkdir "${corpora[0]}"
    [ ! -d "fuzz/corpus/$target" ] || corpora+=("fuzz/corpus/$target")
    "${fuzz[@]}" run "$target" "${corpora[@]}" -- -max_total_time="$seconds" -timeout=10
done
