#!/usr/bin/env bash
# Runs every test: the crate's own, then the acceptance suite against the real binary.
# Needs a Rust toolchain, a C compiler and Python 3 with venv; everything else is installed under target/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

need() {
    if ! command -v "$1" >/dev/null; then
        echo "tests/run.sh: $1 is missing; $2" >&2
        exit 1
    fi
}
need cargo "install Rust with rustup"
need cc "install a C compiler (on Debian or Ubuntu: apt-get install gcc libc6-dev)"
need python3 "install Python 3 (on Debian or Ubuntu: apt-get install python3-venv)"

target=${CARGO_TARGET_DIR:-target}
tests/venv.sh "$target/venv" tests/acceptance/requirements.txt

cargo test --locked
cargo build --locked
"$target/venv/bin/python" tests/acceptance
