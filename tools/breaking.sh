#!/usr/bin/env bash
# Compares each released document, spec/released/NAME.yaml, with spec/NAME.yaml, and fails on a change that breaks
# clients of the released one. A release copies the documents there; before the first one, nothing can break.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What breaks clients of ours though it need not break others': we refuse unknown parameters and properties, and SDK
# methods are named after operation ids.
stricter='request-parameter-removed err
request-property-removed err
api-operation-id-removed err'

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
  bin/oasdiff breaking --fail-on ERR --severity-levels <(echo "$stricter") "$old" "$new" || status=1
done
exit "$status"
