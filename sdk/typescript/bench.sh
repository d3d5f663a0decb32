#!/bin/sh
# Prints the time of a Get through this package as a ratio to fetch alone, in the same run.
set -eu
cd "$(dirname "$0")"
. ./scripts/install.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/build.sh "$work"
node bench/get.mjs "$work"
