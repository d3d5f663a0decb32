#!/usr/bin/env bash
# Fails on a change that breaks clients of a released document. With two arguments, OLD and NEW, it compares those two;
# with none, each released document, spec/released/NAME.yaml, with spec/NAME.yaml. A release copies the documents there;
# before the first one, nothing can break. `make bin/oasdiff` builds what it needs; OASDIFF names another one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
oasdiff=${OASDIFF:-$root/bin/oasdiff}
# compare OLD NEW. spec/breaking-changes.txt adds changes that break our clients, if not others': generated code is named
# after operations, tags and schemas, and clients rely on optional members too. Neither x-sunset nor x-stability-level
# allows a change, so both are taken out of the old document.
compare() {
  "$oasdiff" breaking --fail-on WARN --flatten-params --severity-levels "$root/spec/breaking-changes.txt" \
    <(sed -E 's/"?x-(sunset|stability-level)"?:/"x-was-\1":/g' "$1") "$2"
}

case $# in
  0) ;;
  2)
    compare "$1" "$2"
    exit
    ;;
  *)
    echo 'usage: tools/breaking.sh [OLD NEW]' >&2
    exit 2
    ;;
esac

cd "$root"
shopt -s nullglob
released=(spec/released/*.yaml)
if [[ ${#released[@]} -eq 0 ]]; then
  echo "spec/released/ holds no document: nothing has been released, so there is nothing to compare with"
  exit 0
fi

status=0
for old in "${released[@]}"; do
  new=spec/$(basename "$old")
  echo "$old -> $new"
  compare "$old" "$new" || status=1
done
exit "$status"
