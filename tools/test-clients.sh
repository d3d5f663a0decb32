#!/usr/bin/env bash
# Checks the contract as its users meet it, against a live service: clients that others' generators make of it, programs
# as published with the packed SDKs and nothing else, and the code samples as they stand.
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
