#!/usr/bin/env bash
# Lints the OpenAPI documents in spec/ with our rules and with OWASP's. First, both must find the mistakes in bad.yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Without these variables, the linter sends statistics and looks for updates.
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true REDOCLY_SUPPRESS_NOTIFICATIONS=true

lint() {
  node tools/lint/node_modules/@redocly/cli/bin/cli.js lint \
    --config=spec/redocly.yaml --lint-config=error --max-problems=1000 "$@"
}

owasp() { node tools/lint/node_modules/@stoplight/spectral-cli/dist/index.js lint --ruleset=tools/lint/spectral.yaml --fail-severity=hint "$@"; }

noticed=$(lint --format=json tools/lint/bad.yaml 2>/dev/null || true)
rules=$(node -p 'Object.keys(require("./spec/lint")().rules.oas3).join("\n")')
for rule in $rules; do
  if ! grep -qF "\"aikeys/$rule\"" <<<"$noticed"; then
    echo "aikeys/$rule is off in spec/redocly.yaml, or does not notice what tools/lint/bad.yaml breaks" >&2
    exit 1
  fi
done

noticed=$(owasp tools/lint/bad.yaml 2>/dev/null || true)
if ! grep -qF 'owasp:api4:2023-rate-limit ' <<<"$noticed"; then
  echo "OWASP's rules are off in tools/lint/spectral.yaml, or do not notice what tools/lint/bad.yaml breaks" >&2
  exit 1
fi

documents=$(grep -l '^openapi:' spec/*.yaml || true)
if [[ -z $documents ]]; then
  echo "spec/ holds no OpenAPI document" >&2
  exit 1
fi
# shellcheck disable=SC2086 # one path a line, none with a space
lint --format=stylish $documents
# shellcheck disable=SC2086
owasp $documents
