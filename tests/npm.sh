#!/usr/bin/env bash
# Installs pinned npm packages, or brings them up to date: npm.sh DIR FOLDER, where FOLDER has package.json and its lock
set -euo pipefail

dir=$1
folder=$2
stamp=$dir/installed.json

if cmp -s "$folder/package-lock.json" "$stamp"; then
    exit 0
fi

rm -rf "$dir"
mkdir -p "$dir"
cp "$folder/package.json" "$folder/package-lock.json" "$dir"
npm ci --prefix "$dir" --ignore-scripts --no-audit --no-fund --loglevel error
cp "$folder/package-lock.json" "$stamp"
