#!/usr/bin/env bash
# Checks the Go SDK alone: format, vet, linters, go.mod, tests against the vectors, the service and the packed SDK, and
# that the generated core is what the document generates. make lint and make test run the same for all modules.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

make --silent -C ../.. bin/golangci-lint
unformatted=$(gofmt -l .)
[[ -z $unformatted ]] || { printf 'not formatted by gofmt:\n%s\n' "$unformatted" && exit 1; }
go vet ./...
../../bin/golangci-lint run --config=../../.golangci.yml ./...
go mod tidy -diff

before=$(cat aikeys/v1/types.gen.go internal/operations/operations.gen.go | sha256sum)
./generate.sh
after=$(cat aikeys/v1/types.gen.go internal/operations/operations.gen.go | sha256sum)
[[ $before == "$after" ]] || { echo 'the generated core was not up to date: commit what generate.sh wrote' && exit 1; }

flags=(-timeout=10m)
if command -v "$(go env CC)" >/dev/null; then
  export CGO_ENABLED=1
  flags+=(-race)
fi
go test "${flags[@]}" ./...
