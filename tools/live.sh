#!/usr/bin/env bash
# Runs a command beside a live service: `tools/live.sh COMMAND [ARGUMENT...]` starts `aikeysd dev` on ports and data of
# its own, runs the command with the session's variables (AGENTROUTER_BASE_URL, AGENTROUTER_API_KEY, …), and ends the
# service. AIKEYSD may name a built aikeysd, which has aikeys-gateway beside it. LIVE_ENV may have variables for the
# service only: NAME=VALUE, separated by spaces.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ $# -gt 0 ]] || { echo 'usage: tools/live.sh COMMAND [ARGUMENT...]' >&2 && exit 2; }

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
[[ -n ${AIKEYSD-} ]] || CGO_ENABLED=0 go build -C "$root" -o "$work/" ./cmd/aikeysd ./cmd/aikeys-gateway

any=127.0.0.1:0
: >"$work/log"
# shellcheck disable=SC2086
env ${LIVE_ENV-} "$program" dev --data "$work/data" --listen "$any" --dataplane-listen "$any" --ops-listen "$any" \
  --gateway-listen "$any" >>"$work/log" 2>&1 </dev/null &
service=$!
for ((tenths = 0; ; tenths++)); do
  grep -q 'is ready\.$' "$work/log" && break
  if ((tenths > 600)) || ! kill -0 "$service" 2>/dev/null; then
    cat "$work/log" >&2
    echo 'the service did not start' >&2
    exit 1
  fi
  sleep 0.1
done

set -a
# shellcheck source=/dev/null
source "$work/data/session.env"
set +a
"$@"
