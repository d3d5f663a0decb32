#!/usr/bin/env bash
# Checks the SDKs that are not in Go, each by its own script: generated code, types, linters, tests against the common
# vectors and a live service. tools/test-go.sh runs the Go SDK's tests with the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

status=0
for sdk in python typescript; do
  echo "## sdk/$sdk"
  "sdk/$sdk/test.sh" || status=1
done
exit "$status"
