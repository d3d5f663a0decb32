#!/usr/bin/env bash
# Renders the chart with Helm's engine, and checks what it makes, also against Kubernetes' schemas. It needs no cluster. The first
# run compiles Helm, which takes minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/venv.sh tools/deploy
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
RENDERED=$work go -C deploy/helm/test test -count=1 ./...
# The oldest version that Chart.yaml admits, and a new one.
for version in 1.30 1.33; do
  tools/deploy/.venv/bin/kubernetes-validate --strict --quiet -k "$version" "$work"/*.yaml
done
misspelt=$work/misspelt.yaml
sed 's/"replicas"/"replica"/' "$work/defaults-Deployment-prod-aikeys.yaml" >"$misspelt"
if tools/deploy/.venv/bin/kubernetes-validate --strict --quiet -k 1.33 "$misspelt" &>/dev/null; then
  echo 'a misspelt field was not found' >&2
  exit 1
fi
