#!/bin/sh
# Compiles src into OUTDIR/esm and OUTDIR/cjs, each with types of its own kind of module. OUTDIR is dist unless given.
set -eu
cd "$(dirname "$0")/.."
out=${1:-dist}
rm -rf "$out"
node_modules/.bin/tsc -p tsconfig.build.json --outDir "$out/esm"
node_modules/.bin/tsc -p tsconfig.cjs.json --outDir "$out/cjs"
echo '{"type": "module", "sideEffects": false}' >"$out/esm/package.json"
echo '{"type": "commonjs", "sideEffects": false}' >"$out/cjs/package.json"
