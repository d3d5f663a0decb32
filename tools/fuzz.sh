#!/usr/bin/env bash
# Runs each fuzz target for a while (FUZZTIME, 5s unless set): go test -fuzz takes one target at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

files=$(grep -rl --include='*_test.go' '^func Fuzz' . || true)
for file in $files; do
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
    echo "$file $target"
    (cd "$(dirname "$file")" && go test -run='^$' -fuzz="^$target\$" -fuzztime="${FUZZTIME:-5s}" .)
  done
done
