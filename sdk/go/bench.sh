#!/usr/bin/env bash
# Prints what a Get through the SDK takes, as a ratio to the same request with net/http alone: both in turns in one run,
# against one server on this machine. COUNT=rounds sets how often.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec go run ./bench "${COUNT:-40}"
