#!/usr/bin/env bash
# Tests the console in Chromium: against "aikeysd dev" with a gateway of its own, and against the mock for rare states of a
# service. "browser.sh FOLDER" also saves a screenshot of each page in the folder. As root on a machine with apt it installs
# Chromium and Node.js if they are missing. AIKEYSD may name a built service, with aikeys-gateway and aikeys-demo beside it.
set -euo pipefail
shots=${1:+$(mkdir -p "$1" && cd "$1" && pwd)}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools/deps.sh node chromium
(cd console && source install.sh)
tools/peers.sh node >&2

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
node tools/peers/issuer.mjs 3600 localhost >"$work/issuer.log" 2>&1 &
children+=($!)
await "$work/issuer.log" '^issuer ' "${children[0]}"
issuer=$(sed -n 's/^issuer //p' "$work/issuer.log")
"$program" dev --data "$work/data" --listen 127.0.0.1:0 --dataplane-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 \
  --gateway-listen 127.0.0.1:0 >"$work/service.log" 2>&1 &
children+=($!)
# A service at which people sign in at that issuer. Everybody is alice of acme/chat there.
service=(env AIKEYS_LISTEN=127.0.0.1:0 AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0 AIKEYS_OPS_LISTEN=127.0.0.1:0
  "AIKEYS_DATABASE_URL=sqlite:$work/issuer.db" "AIKEYS_SEALER=local:$work/issuer.keyset"
  "AIKEYS_OIDC_ISSUER=$issuer" AIKEYS_OIDC_AUDIENCE=tare AIKEYS_OIDC_CLIENT_ID=tare "$program")
"${service[@]}" migrate up >&2
"${service[@]}" admin member set --user alice --role owner --customer acme --project chat >&2
"${service[@]}" serve --log-format json >"$work/signin.log" 2>&1 &
children+=($!)
"$program" dev --mock --data "$work/mock" --listen 127.0.0.1:0 --dataplane-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 \
  --gateway-listen 127.0.0.1:0 >"$work/mock.log" 2>&1 &
children+=($!)
await "$work/data/session.env" AGENTROUTER_GATEWAY_URL "${children[1]}"
await "$work/signin.log" '"msg":"ready"' "${children[2]}"
await "$work/mock.log" 'is ready\.$' "${children[3]}"
# shellcheck disable=SC1091 # the service has written it
. "$work/data/session.env"

BASE_URL=$AGENTROUTER_BASE_URL GATEWAY_URL=$AGENTROUTER_GATEWAY_URL OWNER_KEY=$AGENTROUTER_API_KEY MEMBER_KEY=$AGENTROUTER_MEMBER_API_KEY \
  MOCK_URL=$(sed -n 's|^  API *||p' "$work/mock.log") SERVICE_PID=${children[1]} ISSUER_URL=$issuer \
  SIGN_IN_URL=$(sed -n 's/.*"msg":"listening".*"api":"\([^"]*\)".*/\1/p' "$work/signin.log") AIKEYSD=$program DATABASE=sqlite:$work/data/aikeys.db \
  CHROMIUM=$(command -v chromium) SHOTS=$shots node --test --test-reporter=spec console/test/console.test.js
