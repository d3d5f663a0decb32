#!/usr/bin/env bash
# Format, vet, linters and tidy go.mod files, for every Go module of ours. It shows all findings before it fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

status=0
check() { echo "+ $*" && "$@" || status=1; }

formatted() {
  local files
  files=$(gofmt -l .)
  [[ -z $files ]] || { printf 'not formatted by gofmt:\n%s\n' "$files" && return 1; }
}

check formatted
for module in . sdk/go; do
  if [[ -f $module/go.mod ]]; then
    cd "$root/$module"
    check go vet ./...
    check "$root/bin/golangci-lint" run --config="$root/.golangci.yml" ./...
    check go mod tidy -diff
  fi
done
for module in tools tools/localkms; do
  cd "$root/$module"
  check go mod tidy -diff
done
exit "$status"
