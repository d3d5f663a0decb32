#!/bin/sh
# Writes the types in src/gen from the contract, with the generator that package-lock.json pins.
set -eu
cd "$(dirname "$0")"
. ./scripts/install.sh
node scripts/generate.mjs ../../spec/aikeys.yaml
