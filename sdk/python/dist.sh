#!/usr/bin/env bash
# Leaves agentrouter-python-<version>.tar.gz in a folder: dist.sh OUTDIR. The same sources make the same bytes.
set -euo pipefail
out=${1:?usage: dist.sh OUTDIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/agentrouter_sdk/_version.py)
name=agentrouter-python-$version
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/$name"
cp -R LICENSE README.md pyproject.toml src examples "$stage/$name/"
find "$stage" -name __pycache__ -prune -exec rm -rf {} +
find "$stage" -type d -exec chmod 755 {} +
find "$stage" -type f -exec chmod 644 {} +
tar --create --directory "$stage" --sort=name --format=ustar --mtime=@1767225600 --owner=0 --group=0 --numeric-owner \
  "$name" | gzip --no-name --best >"$out/$name.tar.gz"
