#!/usr/bin/env bash
# Checks the contract from its users' side, against a live service: clients made by other people's generators, the published
# programs with nothing but the packed SDKs, and the code samples as written.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

AIKEYSD=$(mktemp -d)/aikeysd
export AIKEYSD
trap 'rm -rf "$(dirname "$AIKEYSD")"' EXIT
CGO_ENABLED=0 go build -o "$(dirname "$AIKEYSD")/" ./cmd/aikeysd ./cmd/aikeys-gateway

status=0
for check in clients reference samples; do
  echo "## tools/$check"
  "tools/$check/run.sh" || status=1
done
exit "$status"
