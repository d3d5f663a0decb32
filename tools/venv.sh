#!/usr/bin/env bash
# Installs the packages that FOLDER/FILE lists (requirements.txt by default) into FOLDER/.venv, by their hashes, unless they
# are installed. `make lock-python` writes such lists.
#   tools/venv.sh FOLDER [FILE]
set -euo pipefail
cd "$1"
list=${2:-requirements.txt}
key="$PWD $(python3 --version) $(cksum <"$list")"
[[ $(cat .venv/.stamp 2>/dev/null) != "$key" ]] || exit 0
echo "installing what ${1##*/}/$list lists"
rm -rf .venv
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: --require-hashes \
  --requirement "$list"
.venv/bin/python -m pip check --quiet --disable-pip-version-check
echo "$key" >.venv/.stamp
