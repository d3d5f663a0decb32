#!/usr/bin/env bash
# Runs the Go tests of every module of ours, with the race detector where there is a C compiler for it. Its arguments
# are go test's, such as -v or -run; its output is go test's and nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

flags=(-timeout=15m)
if command -v "$(go env CC)" >/dev/null; then
  export CGO_ENABLED=1
  flags+=(-race)
fi

status=0
for module in . sdk/go; do
  if [[ -f $module/go.mod ]]; then
    (cd "$module" && go test "${flags[@]}" "$@" ./...) || status=1
  fi
done
exit "$status"
