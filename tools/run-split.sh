#!/usr/bin/env bash
# Does the same as `make run`, with the keyset in a process of its own: secrets-svc on a unix socket, and `aikeysd dev` as
# its client. One Ctrl-C ends both. Their data stays in DATA (data/split), and the next start uses it again. Arguments go
# to `aikeysd dev`. The programs come from BIN (bin), where `make build` puts them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=${DATA:-$root/data/split} bin=${BIN:-$root/bin}
mkdir -p -m 0700 "$data"

export SECRETS_SVC_LISTEN=unix:$data/secrets-svc.sock SECRETS_SVC_OPS_LISTEN=${SECRETS_SVC_OPS_LISTEN:-127.0.0.1:8083}
export SECRETS_SVC_KEYS=$data/keys SECRETS_SVC_CLIENTS=$data/clients.yaml SECRETS_SVC_AUDIT_LOG=$data/audit.log

# The keys of the first start are those of all later ones.
[[ -e $data/keys/dev.json ]] || "$bin/secrets-svc" keys create --namespace dev >/dev/null
[[ -e $data/clients.yaml ]] || (
  umask 077
  cat >"$data/clients.yaml" <<YAML
clients:
  - name: aikeysd
    uids: [$(id -u)]
    namespace: dev
    may: [seal, open, rewrap, status]
YAML
)

service= server=
finish() {
  trap '' INT TERM
  local process
  for process in $server $service; do # in this order: requests in flight need the service
    kill -TERM "$process" 2>/dev/null || true
    wait "$process" 2>/dev/null || true
  done
}
trap finish EXIT
trap 'exit 0' INT TERM

set -m # a process group for each, so that Ctrl-C comes to this script alone
"$bin/secrets-svc" serve --log-format text </dev/null &
service=$!
until [[ -S $data/secrets-svc.sock ]]; do
  kill -0 "$service" 2>/dev/null || exit 1 # it has said why
  sleep 0.05
done
"$bin/aikeysd" dev --data "$data" --sealer "secrets+unix:$data/secrets-svc.sock" "$@" </dev/null &
server=$!
set +m

printf 'secrets-svc is process %d, aikeysd %d: try kill -STOP, -CONT and -KILL on the first.\n' "$service" "$server" >&2
wait "$server"
