#!/usr/bin/env bash
# Builds the portable crates for Windows and runs their tests under Wine, then lints them for
# systems that nothing here can link for or run. Arguments go to a cargo for Windows instead:
# `ci/windows.sh test -p scheduler -- NAME`.
#
# Made for Debian 12, since rustup may not have the other targets at hand: the compiler is
# Debian's own, and std is built from its source. The first run on a machine installs packages, as
# root (310 MB to download, 1.9 GB on disk), and fills a cache (0.9 GB): about three minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

crates=(-p handle-passing -p ipc-core -p scheduler)
windows=x86_64-pc-windows-gnu
others=(aarch64-apple-darwin x86_64-unknown-freebsd)
# The four of Rust together, so that apt keeps them at one version.
packages=(rustc-web cargo-web rust-web-src rust-web-clippy gcc-mingw-w64-x86-64-win32 wine64)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ci-windows
wine=/usr/lib/wine/wine64
wineserver=/usr/lib/wine/wineserver64

export WINEPREFIX=$cache/prefix WINEARCH=win64 WINEDEBUG=-all UNDER_WINE=1
export WINEDLLOVERRIDES="mscoree,mshtml=" # No offer to fetch Mono and Gecko.
export PATH=/usr/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin CARGO_TARGET_DIR=$PWD/target/windows
unset DISPLAY WAYLAND_DISPLAY RUSTFLAGS "${!RUSTUP_@}"
exec </dev/null
# On a terminal Wine would open a console of its own, and draw on it.
if [ -t 1 ] || [ -t 2 ]; then exec > >(cat) 2>&1; fi

# Builds std for a target, or just its metadata where nothing can be linked.
std() {
    local target=$1 how=$2 library stamp lib=$cache/$1/lib/rustlib/$1/lib
    library=/usr/src/rustc-$(rustc --version | cut -d' ' -f2)/library
    stamp=$(dpkg-query --show rustc-web rust-web-src)
    [ "$(cat "$cache/$target/stamp" 2>/dev/null)" != "$stamp" ] || return 0
    echo "building std for $target: about a minute"
    rm -rf "${cache:?}/$target"
    # As std itself is released: with unstable features, and what it depends on kept private.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zforce-unstable-if-unmarked CARGO_TARGET_DIR=$cache/$target/build \
        cargo "$how" --quiet --locked --release --target "$target" \
        --manifest-path "$library/sysroot/Cargo.toml" --features panic-unwind,backtrace
    mkdir -p "$lib"
    cp "$cache/$target/build/$target/release/deps/"*.r[lm]* "$lib"
    rm -r "$lib"/libsysroot-* "$cache/$target/build"
    echo "$stamp" >"$cache/$target/stamp"
}

# Makes Wine's home. Wine 8.0 claims to be Windows 7, and lacks a library that std loads.
prefix() {
    [ ! -e "$WINEPREFIX/stamp" ] || return 0
    rm -rf "$WINEPREFIX"
    mkdir -p "$WINEPREFIX"
    "$wine" wineboot --init
    "$wine" reg add 'HKCU\Software\Wine' /v Version /d win10 /f
    local library=$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll
    [ -e "$library" ] || x86_64-w64-mingw32-gcc -O2 -shared -o "$library" -xc - -ladvapi32 <<'C'
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T len) {
    return len <= 0xffffffff && RtlGenRandom(bytes, len);
}
C
    "$wineserver" --wait # It writes the registry when it ends.
    touch "$WINEPREFIX/stamp"
}

# Runs cargo with a target's std. By target, so that build scripts and macros are for this machine.
cargo_for() {
    local name=${1^^} flags="--sysroot $cache/$1"
    local -x CARGO_BUILD_TARGET=$1 RUSTDOCFLAGS=$flags
    local -x "CARGO_TARGET_${name//-/_}_RUSTFLAGS=$flags"
    local -x CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
    local -x CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=$wine
    shift
    timeout --kill-after=20 "${limit_s:-1800}" cargo "$@" 8>&- 9>&-
}

# Runs tests. Wine fails by itself now and then: its server crashes, and then who talks to it waits
# for ever; or it can't make a process (error 1359). So what fails is run again, and must fail thrice.
tests() {
    cargo_for "$windows" test --locked --no-run "$@"
    for _ in 1 2 3; do
        if limit_s=180 cargo_for "$windows" test --locked "$@"; then return; fi
        echo "==> failed under Wine; was it Wine? At most three runs say so"
    done
    return 1
}

if ! dpkg-query --show "${packages[@]}" >/dev/null 2>&1; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "skipped: on Debian 12 for x86-64, install as root what it needs;"
        echo "         apt-get install --no-install-recommends ${packages[*]}"
        exit 0
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}"
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # One sets up, the others wait.
std "$windows" build
prefix
if [ $# -eq 0 ]; then for target in "${others[@]}"; do std "$target" check; done; fi
flock --unlock 9

# What a test leaves behind would run for ever: Wine's server goes with the last run, and all of
# its processes with it.
exec 8>"$cache/runs"
flock --shared 8
trap 'flock --nonblock --exclusive 8 && "$wineserver" --kill 8>&- 9>&- || true' EXIT

if [ $# -gt 0 ]; then
    cargo_for "$windows" "$@"
    exit
fi
# No doc tests: the examples of the guides are Unix's.
tests "${crates[@]}" --all-features --lib --tests
# The cluster is Linux's alone, and so are its tests and examples.
runtime=(-p runtime --all-features --lib --test process)
# One test at a time: it is by many processes at once that the server crashes.
RUST_TEST_THREADS=1 tests "${runtime[@]}"
cargo_for "$windows" clippy --locked "${runtime[@]}" -- -D warnings
cargo_for "$windows" clippy --locked "${crates[@]}" --all-features --all-targets -- -D warnings
for target in "${others[@]}"; do
    cargo_for "$target" clippy --locked "${crates[@]}" -p runtime --all-features -- -D warnings
done
