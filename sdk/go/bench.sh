#!/usr/bin/env bash
# Prints the time of a Get through the SDK as a ratio to the same request with net/http only. Both take turns in one run,
# against one server on this machine. COUNT sets the number of rounds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec go run ./bench "${COUNT:-40}"
