#!/usr/bin/env bash
# Runs the Go tests of every module of ours, with the race detector where there is a C compiler for it. Its arguments
# are go test's, such as -run. With -v every test is shown, else those that fail, once more at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
gotestsum=$PWD/bin/gotestsum

flags=(-timeout=15m)
if command -v "$(go env CC)" >/dev/null; then
  export CGO_ENABLED=1
  flags+=(-race)
fi
format=pkgname-and-test-fails
for argument in "$@"; do
  [[ $argument != -v ]] || format=standard-verbose
done

status=0
for module in sdk/go .; do
  (cd "$module" && "$gotestsum" --format="$format" --hide-summary=skipped -- "${flags[@]}" "$@" ./...) || status=1
done

# What seals or opens passes with the secrets service in a process's place as well.
sealing=(./impl/aikeys/... ./impl/dataplane ./impl/keysetcheck ./cmd/aikeysd)
AIKEYS_TEST_SEALER=remote "$gotestsum" --format="$format" --hide-summary=skipped -- "${flags[@]}" "$@" "${sealing[@]}" || status=1
exit "$status"
