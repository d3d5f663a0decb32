#!/usr/bin/env bash
# Serves the public API's document from its examples, on 127.0.0.1 and MOCK_PORT (4010). Once installed it needs no
# network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
../deps.sh node
source ./install.sh
exec node main.mjs ../../spec/aikeys.yaml
