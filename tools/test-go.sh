#!/usr/bin/env bash
# Runs the Go tests of each of our modules, with the race detector if there is a C compiler. Its arguments are go test's,
# such as -run. With -v it shows every test; otherwise it shows those that fail, again at the end.
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

# The tests whose names begin with TestSealing, or contain Sealer, run once more with the secrets service in place of the
# local sealer. They cover each way in which a server uses a sealer; other tests seal too, but what they test does not
# depend on the sealer.
sealing=(./impl/aikeys ./impl/dataplane ./impl/keysetcheck)
for package in "${sealing[@]}"; do
  names=$(go test "${flags[@]}" -list '^TestSealing' "$package")
  if [[ $names != TestSealing* ]]; then
    echo "tools/test-go.sh: $package has no test whose name begins with TestSealing" >&2
    status=1
  fi
done
AIKEYS_TEST_SEALER=remote "$gotestsum" --format="$format" --hide-summary=skipped -- "${flags[@]}" -run='^TestSealing|Sealer' "$@" "${sealing[@]}" || status=1
exit "$status"
