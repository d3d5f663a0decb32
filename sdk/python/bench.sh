#!/usr/bin/env bash
# Prints what a get costs over one with the bare HTTP client, as a ratio, in the same run.
set -euo pipefail
cd "$(dirname "$0")"
source ./setup.sh
exec python bench.py "$@"
