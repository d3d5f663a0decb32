#!/usr/bin/env bash
# Runs the tests that are not in Go, two scripts at a time, on one build of the service. It prints a script's output when the
# script ends. The slowest scripts start first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts=(
  tools/fuzz-api/run.sh deploy/test.sh sdk/python/test.sh tools/clients/run.sh sdk/typescript/test.sh tools/samples/run.sh
  tools/reference/run.sh console/browser.sh impl/docsite/browser.sh tools/audit/test.sh
)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AIKEYSD=$work/aikeysd
CGO_ENABLED=0 go build -o "$work/" ./cmd/aikeysd ./cmd/aikeys-gateway ./cmd/aikeys-demo

# What several scripts install is installed before they run side by side.
tools/deps.sh node python curl chromium
(cd sdk/typescript && source scripts/install.sh)
(cd sdk/python && source setup.sh)
export PYTHONDONTWRITEBYTECODE=1 # so that no file appears in sdk/python/src while it is packed

run_script() {
  local output started=$SECONDS outcome=ok
  output=$("./$1" 2>&1 </dev/null) || outcome=FAILED
  printf '## %s: %s after %ss\n%s\n' "$1" "$outcome" $((SECONDS - started)) "$output"
  [[ $outcome == ok ]]
}
export -f run_script
printf '%s\n' "${scripts[@]}" | xargs -P 2 -I {} bash -c 'run_script {}'
