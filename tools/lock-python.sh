#!/usr/bin/env bash
# Writes the Python requirements with the versions and hashes of all dependencies: X.txt from X.in, and the SDK's from its
# pyproject.toml. It keeps present versions; --upgrade takes the newest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/venv.sh tools/audit
lock() {
  tools/audit/.venv/bin/uv pip compile --quiet --universal --python-version "$3" --generate-hashes --no-annotate \
    --only-binary :all: --custom-compile-command 'make lock-python' --output-file "$2" "${options[@]}" "$1"
}
options=("$@")
for list in tools/*/requirements.in sdk/python/requirements-*.in; do
  lock "$list" "${list%.in}.txt" 3.11
done
lock sdk/python/pyproject.toml sdk/python/requirements.txt 3.11
