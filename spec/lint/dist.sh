#!/bin/sh
# Leaves OUTDIR/agentrouter-lint-<version>.tar.gz, which npm installs as it is. The same sources make the same bytes.
set -eu
out=$(mkdir -p "${1:?usage: dist.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "$0")"

stem=agentrouter-lint-$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/$stem"
cp package.json README.md index.js rules.js strict.js ../../LICENSE "$work/$stem"
tar -C "$work" --format=ustar --sort=name --mtime='2026-01-01 00:00:00Z' --owner=0 --group=0 --numeric-owner \
  --mode=u=rwX,go=rX -cf - "$stem" | gzip -9n >"$out/$stem.tar.gz"
