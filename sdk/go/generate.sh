#!/usr/bin/env bash
# Generates the SDK's core from spec/aikeys.yaml, with the generator that tools/go.mod pins. It must be run in the
# repository, not in an unpacked SDK.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

make --silent bin/oapi-codegen
document=$(mktemp --suffix=.yaml)
trap 'rm -f "$document"' EXIT
# Lists that will grow become string types with constants: Go's enumerations hold unknown values as well.
sed 's/x-extensible-enum:/enum:/' spec/aikeys.yaml >"$document"
for config in sdk/go/aikeys/v1/types.cfg.yaml sdk/go/internal/operations/operations.cfg.yaml; do
  bin/oapi-codegen -config "$config" "$document"
done
gofmt -l sdk/go
