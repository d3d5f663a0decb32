#!/usr/bin/env bash
# Fuzzes a running aikeysd from the OpenAPI documents in spec/: as a project's owner, as a member, without a credential,
# and as a data plane. It fails on a 5xx, on a status, media type, header or body that the document does not have, on
# invalid data that is accepted and valid data that is refused, on an operation that was not reached, and on a leaked
# secret. Before that, it proves that it would notice each of these. To go deeper, set
#   FUZZ_EXAMPLES  generated requests for each operation and phase (default 30)
#   FUZZ_SEED      the number that they are drawn from (default 1), or "random"
# schemathesis.toml says what is checked, hooks.py how requests are made sensible, fuzz.py does the rest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
"$root/tools/deps.sh" python

venv=$here/.venv
"$root/tools/venv.sh" "$here"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if [[ -n ${AIKEYSD-} ]]; then
  ln -s "$AIKEYSD" "$work/aikeysd"
else
  (cd "$root" && CGO_ENABLED=0 go build -trimpath -o "$work/aikeysd" ./cmd/aikeysd)
fi
PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" "$here/fuzz.py" "$root" "$work"
