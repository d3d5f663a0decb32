#!/usr/bin/env bash
# Tests the mock: every operation and status against the document, the packed TypeScript SDK, and that it finds the same
# faults in bad requests as the service does, which it starts. AIKEYSD may name a built one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
../deps.sh node curl
source ./install.sh

work=$(mktemp -d)
service=
cleanup() {
  [[ -z $service ]] || { kill "$service" && wait "$service"; } || true
  rm -rf "$work"
}
trap cleanup EXIT

../../sdk/typescript/dist.sh "$work"
tar -xzf "$work"/agentrouter-typescript-*.tar.gz -C "$work"
rm "$work"/*.tar.gz

program=${AIKEYSD:-$work/aikeysd}
[[ -n ${AIKEYSD-} ]] || CGO_ENABLED=0 go build -C ../.. -o "$work/" ./cmd/aikeysd ./cmd/aikeys-gateway
"$program" dev --data "$work/data" --listen 127.0.0.1:0 --dataplane-listen 127.0.0.1:0 \
  --ops-listen 127.0.0.1:0 --gateway-listen 127.0.0.1:0 >"$work/log" 2>&1 &
service=$!
for ((tries = 0; tries < 600; tries++)); do
  [[ ! -s $work/data/session.env ]] || break
  kill -0 "$service" 2>/dev/null || break
  sleep 0.1
done
[[ -s $work/data/session.env ]] || { cat "$work/log" >&2; exit 1; }

AGENTROUTER_TEST_PACKAGE=$(echo "$work"/agentrouter-typescript-*) AGENTROUTER_TEST_SERVICE=$work/data/session.env \
  node --test mock.test.mjs
