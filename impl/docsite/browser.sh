#!/usr/bin/env bash
# Tests the pages in Chromium, light and dark, wide and narrow: they load without errors, make no requests to other servers,
# work, and are accessible. "browser.sh FOLDER" also saves a screenshot of each page in the folder. As root on a machine with
# apt it installs Chromium and Node.js if they are missing. AIKEYSD may name a built service.
set -euo pipefail
shots=${1:+$(mkdir -p "$1" && cd "$1" && pwd)}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tools/deps.sh node chromium
(
  cd impl/docsite/browsertest
  if ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2
    cp package-lock.json node_modules/.installed
  fi
)

work=$(mktemp -d)
service=
finish() {
  if [[ -n $service ]]; then
    kill "$service" 2>/dev/null || true
    wait "$service" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap finish EXIT

program=${AIKEYSD:-$work/aikeysd}
[[ -n ${AIKEYSD-} ]] || CGO_ENABLED=0 go build -o "$work/" ./cmd/aikeysd ./cmd/aikeys-gateway
for sdk in go python typescript; do
  "sdk/$sdk/dist.sh" "$work/dist" >/dev/null
done
"$program" dev --data "$work/data" --downloads "$work/dist" --listen 127.0.0.1:0 --dataplane-listen 127.0.0.1:0 \
  --ops-listen 127.0.0.1:0 --gateway-listen 127.0.0.1:0 >"$work/log" 2>&1 &
service=$!
for _ in {1..600}; do
  if [[ -e $work/data/session.env ]] || ! kill -0 "$service" 2>/dev/null; then break; fi
  sleep 0.1
done
if [[ ! -e $work/data/session.env ]]; then
  cat "$work/log" >&2
  exit 1
fi
# shellcheck disable=SC1091 # the service has written it
. "$work/data/session.env"

BASE_URL=$AGENTROUTER_BASE_URL OWNER_KEY=$AGENTROUTER_API_KEY CHROMIUM=$(command -v chromium) SHOTS=$shots \
  node --test --test-reporter=spec impl/docsite/browsertest/pages.test.js
