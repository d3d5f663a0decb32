#!/usr/bin/env bash
# Fuzzes a running aikeysd from the OpenAPI documents in spec/: as a project's owner, as a member, without a credential,
# and as a data plane. Fails on a 5xx, on a status, media type, header or body that the document does not know, on wrong
# data that is taken and right data that is refused, on an operation that was not reached, and on a secret that shows.
# Before that it makes sure that it would notice. Whoever wants to go deeper sets
#   FUZZ_EXAMPLES  generated requests for each operation and phase (default 30)
#   FUZZ_SEED      the number that they are drawn from (default 1), or "random"
# schemathesis.toml says what is checked, hooks.py how requests are made sensible, fuzz.py does the rest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
"$root/tools/deps.sh" python

venv=$here/.venv
key="$here $(python3 --version) $(cksum <"$here/requirements.txt")"
if [[ $(cat "$venv/.stamp" 2>/dev/null) != "$key" ]]; then
  echo 'installing schemathesis'
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: \
    --requirement "$here/requirements.txt"
  "$venv/bin/python" -m pip check --disable-pip-version-check
  echo "$key" >"$venv/.stamp"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if [[ -n ${AIKEYSD-} ]]; then
  ln -s "$AIKEYSD" "$work/aikeysd"
else
  (cd "$root" && CGO_ENABLED=0 go build -trimpath -o "$work/aikeysd" ./cmd/aikeysd)
fi
PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" "$here/fuzz.py" "$root" "$work"
