#!/usr/bin/env bash
# Fuzzes every target for a few seconds: `ci/fuzz.sh [SECONDS] [TARGET...]`, 5 seconds by default.
# `ci/fuzz.sh --runs RUNS [TARGET...]` is for counting: it executes each target so many times, in
# one process for each processor and without AddressSanitizer, and prints what was executed.
# Installs cargo-fuzz (half a minute) and, as root on Debian, the C++ compiler that libFuzzer needs.
# Inputs go to a scratch directory: the committed corpus is read, never written. To fuzz for
# longer and keep what is found, use `cargo +nightly fuzz run TARGET`.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=
if [ "${1:-}" = --runs ]; then
    runs=${2:?"how many?"}
    shift
fi
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

# Fuzzes one target with the further arguments, in a scratch directory.
fuzz() {
    local target=$1 corpora
    shift
    corpora=("$(mktemp -d "$scratch/$target.XXXX")") # libFuzzer writes to the first one only.
    [ ! -d "fuzz/corpus/$target" ] || corpora+=("fuzz/corpus/$target")
    "${fuzz[@]}" run "${options[@]}" "$target" "${corpora[@]}" -- -timeout=10 "$@"
}

# Executes one target many times, and says how many, and how fast.
count() {
    local target=$1 processes=() logs=() start=$SECONDS status=0 total
    for process in $(seq "$(nproc)"); do
        logs+=("$scratch/$target.$process.log")
        fuzz "$target" -runs=$((runs / $(nproc))) -print_final_stats=1 &>"${logs[-1]}" &
        processes+=($!)
    done
    for process in "${processes[@]}"; do wait "$process" || status=$?; done
    if [ $status -ne 0 ]; then
        cat "${logs[@]}" >&2
        exit "$status"
    fi
    total=$(awk '/stat::number_of_executed_units/ { sum += $2 } END { print sum }' "${logs[@]}")
    echo "$target: $total executions in $((SECONDS - start)) s, no finding"
}

options=()
# What differs in flags is kept apart, so that one build does not replace the other.
[ -z "$runs" ] || options=(--sanitizer none --target-dir target/count)
[ $# -gt 0 ] || "${fuzz[@]}" build "${options[@]}" # Everything once; `run` only starts it then.
for target in "${targets[@]}"; do
    if [ -n "$runs" ]; then
        "${fuzz[@]}" build "${options[@]}" "$target"
        count "$target"
    else
        echo "--- fuzz $target for ${seconds}s"
        fuzz "$target" -max_total_time="$seconds"
    fi
done
