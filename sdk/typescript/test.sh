#!/bin/sh
# Checks the package: generated types, compiler, linter, tests, the tarball, and all methods against a live server.
# AIKEYSD may name a built one.
set -eu
cd "$(dirname "$0")"
. ./scripts/install.sh
node scripts/generate.mjs ../../spec/aikeys.yaml --check
node_modules/.bin/tsc -p .
node_modules/.bin/eslint --max-warnings 0 .

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
./dist.sh "$work"
tar -xzf "$work"/agentrouter-typescript-*.tar.gz -C "$work"
export AGENTROUTER_TEST_PACKAGE="$work/agentrouter-typescript-$(node -p 'require("./package.json").version')"
node_modules/.bin/publint --strict "$AGENTROUTER_TEST_PACKAGE"
node_modules/.bin/attw --no-color --no-emoji --pack "$AGENTROUTER_TEST_PACKAGE"

[ -n "${AIKEYSD-}" ] || CGO_ENABLED=0 go build -C ../.. -o "$work/" ./cmd/aikeysd ./cmd/aikeys-gateway
AGENTROUTER_TEST_SERVER="${AIKEYSD:-$work/aikeysd}" node --import tsx --test test/*.test.ts
