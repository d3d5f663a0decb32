#!/usr/bin/env bash
# Tests the console in Chromium: against "aikeysd dev" with a gateway of its own, and against the mock for states that a service
# is rarely in. "browser.sh FOLDER" also saves a screenshot of each page in the folder. As root on a machine with apt it installs
# Chromium and Node.js if they are missing. AIKEYSD may name a built service, with aikeys-gateway and aikeys-demo beside it.
set -euo pipefail
shots=${1:+$(mkdir -p "$1" && cd "$1" && pwd)}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools/deps.sh node chromium
(cd console && source install.sh)
(cd tools/mock && source ./install.sh)

work=$(mktemp -d)
children=()
finish() {
  for child in "${children[@]}"; do kill "$child" 2>/dev/null && wait "$child" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

# await FILE PATTERN CHILD: waits until a child has written a line to a file.
await() {
  for _ in {1..600}; do
    if grep -qs "$2" "$1"; then return; fi
    kill -0 "$3" 2>/dev/null || break
    sleep 0.1
  done
  cat "$work"/*.log >&2
  exit 1
}

program=${AIKEYSD:-$work/aikeysd}
[[ -n ${AIKEYSD-} ]] || CGO_ENABLED=0 go build -o "$work/" ./cmd/aikeysd ./cmd/aikeys-gateway ./cmd/aikeys-demo
"$program" dev --data "$work/data" --listen 127.0.0.1:0 --dataplane-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 \
  --gateway-listen 127.0.0.1:0 >"$work/service.log" 2>&1 &
children+=($!)
MOCK_PORT=0 node tools/mock/main.mjs spec/aikeys.yaml >"$work/mock.log" 2>&1 &
children+=($!)
await "$work/data/session.env" AGENTROUTER_GATEWAY_URL "${children[0]}"
await "$work/mock.log" 'http://127' "${children[1]}"
# shellcheck disable=SC1091 # the service has written it
. "$work/data/session.env"

BASE_URL=$AGENTROUTER_BASE_URL GATEWAY_URL=$AGENTROUTER_GATEWAY_URL OWNER_KEY=$AGENTROUTER_API_KEY MEMBER_KEY=$AGENTROUTER_MEMBER_API_KEY \
  MOCK_URL=$(grep -om1 'http://127[0-9.:]*' "$work/mock.log") SERVICE_PID=${children[0]} AIKEYSD=$program DATABASE=sqlite:$work/data/aikeys.db \
  CHROMIUM=$(command -v chromium) SHOTS=$shots node --test --test-reporter=spec console/test/console.test.js
