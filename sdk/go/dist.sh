#!/usr/bin/env bash
# Packs the SDK: "dist.sh OUTDIR" writes OUTDIR/agentrouter-go-<version>.tar.gz, with the same bytes every time.
set -euo pipefail
out=$(mkdir -p "${1:?usage: dist.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"

version=$(sed -n 's/^const Version = "\(.*\)"$/\1/p' agentrouter.go)
name=agentrouter-go-$version
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

mkdir "$stage/$name"
cp ../../LICENSE "$stage/$name/"
# The archive has the sources without tests, the examples and the README.
find . -type f \( -name '*.go' ! -name '*_test.go' -o -name go.mod -o -name README.md \) ! -path './bench/*' -print0 |
  xargs -0 cp --parents -t "$stage/$name"
chmod -R u=rwX,go=rX "$stage/$name"
tar --create --directory="$stage" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner \
  --mtime='2026-01-01 00:00:00Z' "$name" | gzip --no-name --best >"$out/$name.tar.gz"
echo "$out/$name.tar.gz"
