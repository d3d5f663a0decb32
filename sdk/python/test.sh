#!/usr/bin/env bash
# Checks the package: generated code without difference, lint, types, Python 3.9, tests. AIKEYSD may name a built service.
set -euo pipefail
cd "$(dirname "$0")"
source ./setup.sh

./generate.sh --check
ruff check .
ruff format --check .
mypy
for example in examples/*/main.py; do mypy "$example"; done
pyright
vermin --quiet --no-tips --target=3.9- --violations --backport typing --eval-annotations src examples
pytest
