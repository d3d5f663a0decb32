#!/usr/bin/env bash
# Checks an OpenAPI document in somebody's CI: `tools/contract.sh DOCUMENT [RELEASED]`. It lints DOCUMENT with our rules, looks for
# changes since RELEASED that break clients, and generates a client from it in TypeScript and one in Go, which must compile under
# strict settings. .github/workflows/contract.yaml runs it for other repositories.
set -euo pipefail
[[ $# == 1 || $# == 2 ]] || { echo 'usage: tools/contract.sh DOCUMENT [RELEASED]' >&2 && exit 2; }
document=$(realpath "$1")
released=${2:+$(realpath "$2")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Without these variables, the linter sends statistics and looks for updates.
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true REDOCLY_SUPPRESS_NOTIFICATIONS=true

# run WHAT COMMAND…: runs the command, and notes whether it failed. All checks run.
failed=()
run() {
  echo "## $1"
  "${@:2}" || failed+=("$1")
}

lint() {
  printf 'plugins: ["%s"]\nextends: [aikeys/strict]\n' "$PWD/spec/lint/index.js" >"$work/redocly.yaml"
  node tools/lint/node_modules/@redocly/cli/bin/cli.js lint --config="$work/redocly.yaml" --lint-config=error "$document"
}

generate_typescript() {
  tools/clients/node_modules/.bin/openapi-typescript "$document" --output "$work/client.ts" &&
    tools/clients/node_modules/.bin/tsc --noEmit --strict --exactOptionalPropertyTypes "$work/client.ts"
}

generate_go() {
  # The suffix keeps its types apart from schemas such as ListEventsResponse.
  printf 'package: client\ngenerate: {models: true, client: true}\noutput-options: {response-type-suffix: Result}\noutput: "%s"\n' "$work/client.go" >"$work/client.yaml"
  go tool oapi-codegen -config "$work/client.yaml" "$document" && go vet "$work/client.go"
}

for folder in lint clients; do
  [[ -d tools/$folder/node_modules ]] || npm ci --prefix "tools/$folder" --ignore-scripts --no-audit --no-fund --loglevel=error
done
run 'lint' lint
if [[ -n $released ]]; then
  make --no-print-directory bin/oasdiff
  run 'breaking changes' tools/breaking.sh "$released" "$document"
fi
run 'a client in TypeScript' generate_typescript
run 'a client in Go' generate_go

if [[ ${#failed[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
