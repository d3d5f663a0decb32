#!/usr/bin/env bash
# Generates the service's Go code, of every config gen/NAME/*.cfg.yaml from the document spec/NAME.yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

shopt -s nullglob
for config in gen/*/*.cfg.yaml; do
  document=spec/$(basename "$(dirname "$config")").yaml
  echo "$document -> $(sed -n 's/^output: *//p' "$config")"
  bin/oapi-codegen -config "$config" "$document"
done
