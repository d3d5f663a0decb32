#!/usr/bin/env bash
# Generates the SDK's core from spec/aikeys.yaml, with the generator that the repository's go.mod pins. It works in the
# repository only, not in an unpacked SDK.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

document=$(mktemp --suffix=.yaml)
trap 'rm -f "$document"' EXIT
# The generator knows enum alone. A Go string type with constants takes unknown values too, so it fits lists that will grow.
sed 's/x-extensible-enum:/enum:/' spec/aikeys.yaml >"$document"
for config in sdk/go/aikeys/v1/types.cfg.yaml sdk/go/internal/operations/operations.cfg.yaml; do
  go tool oapi-codegen -config "$config" "$document"
done
gofmt -l sdk/go
