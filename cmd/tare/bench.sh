#!/usr/bin/env bash
# Prints how long tare takes until its first output, in milliseconds, median and 95th percentile: for help, and for a list
# from a server on this machine; for comparison, curl with the same list and a program that does nothing. All take turns in
# one run. The aims on an idle machine: help-ms under 20, list-ms under 50. BENCHTIME=5x repeats it five times.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/deps.sh curl
exec go test -run='^$' -bench=FirstOutput -benchtime="${BENCHTIME:-1x}" ./cmd/tare
