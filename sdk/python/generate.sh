#!/usr/bin/env bash
# Generates the generated part of the package from spec/aikeys.yaml; with --check, fails if it has changed.
set -euo pipefail
cd "$(dirname "$0")"
source ./setup.sh

if [[ ${1:-} != --check ]]; then
  .venv/bin/python tools/generate.py ../../spec/aikeys.yaml src/agentrouter_sdk
  exit
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
cp -R src/agentrouter_sdk "$fresh/"
.venv/bin/python tools/generate.py ../../spec/aikeys.yaml "$fresh/agentrouter_sdk"
diff -ru --exclude=__pycache__ src/agentrouter_sdk "$fresh/agentrouter_sdk" ||
  { echo "The generated code is out of date: run sdk/python/generate.sh." >&2; exit 1; }
