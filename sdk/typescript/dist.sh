#!/bin/sh
# Leaves OUTDIR/agentrouter-typescript-<version>.tar.gz, which unpacks to a folder that npm installs as it is. The same
# sources make the same bytes.
set -eu
out=$(mkdir -p "${1:?usage: dist.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "$0")"
. ./scripts/install.sh

stem=agentrouter-typescript-$(node -p 'require("./package.json").version')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/$stem"
scripts/build.sh "$work/$stem/dist"
cp README.md ../../LICENSE "$work/$stem"
# Whoever installs a folder gets its development tools too, so the package comes without them.
node -e 'const { devDependencies, ...rest } = require("./package.json"); console.log(JSON.stringify(rest, null, 2))' \
  >"$work/$stem/package.json"
tar -C "$work" --format=ustar --sort=name --mtime='2026-01-01 00:00:00Z' --owner=0 --group=0 --numeric-owner \
  --mode=u=rwX,go=rX -cf - "$stem" | gzip -9n >"$out/$stem.tar.gz"
