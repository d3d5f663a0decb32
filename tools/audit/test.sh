#!/usr/bin/env bash
# Shows that `make audit` distinguishes a clean result from a database that did not answer, for each kind of package, and
# never loses a vulnerability. Stand-ins answer like the three real tools.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
stubs=$(mktemp -d)
trap 'rm -rf "$stubs"' EXIT

stub() { printf '#!/bin/sh\n%s\n' "$2" >"$stubs/$1" && chmod +x "$stubs/$1"; }

# answer TOOL WHAT: makes a stand-in answer like the tool: clean, with a finding, or without a database.
answer() {
  case $1-$2 in
    govulncheck-clean) stub "$1" 'echo "No vulnerabilities found."' ;;
    govulncheck-found) stub "$1" 'echo "Vulnerability #1: GO-0000-0001"; exit 3' ;;
    govulncheck-silent) stub "$1" 'echo "govulncheck: fetching vulnerabilities: no such host" >&2; exit 1' ;;
    npm-clean) stub "$1" 'echo "{\"auditReportVersion\": 2, \"metadata\": {\"vulnerabilities\": {\"total\": 0}}}"' ;;
    npm-found) stub "$1" 'echo "{\"auditReportVersion\": 2, \"metadata\": {\"vulnerabilities\": {\"total\": 1}}}"; exit 1' ;;
    npm-silent) stub "$1" 'echo "{\"message\": \"405 Method Not Allowed\"}"; echo "npm error audit endpoint" >&2; exit 1' ;;
    pip-audit-clean) stub "$1" 'echo "{\"dependencies\": [{\"name\": \"a\", \"version\": \"1\", \"vulns\": []}]}"' ;;
    pip-audit-found) stub "$1" 'echo "{\"dependencies\": [{\"name\": \"a\", \"vulns\": [{\"id\": \"X-1\"}]}]}"; exit 1' ;;
    # It skips packages for which no database answers, and still exits with 0.
    pip-audit-silent) stub "$1" 'echo "{\"dependencies\": [{\"name\": \"a\", \"skip_reason\": \"not found\"}]}"' ;;
    pip-audit-broken) stub "$1" 'echo "Traceback" >&2; exit 1' ;;
  esac
}

# expect STATUS TEXT: runs the audit.
expect() {
  local output status=0
  output=$(AUDIT_TOOLS=$stubs tools/audit.sh 2>&1) || status=$?
  if [[ $status != "$1" ]] || ! grep -q "$2" <<<"$output"; then
    printf 'wanted status %s and "%s", got %s:\n%s\n' "$1" "$2" "$status" "$output" >&2
    exit 1
  fi
}

everything() { for tool in govulncheck npm pip-audit; do answer "$tool" "$1"; done; }

everything clean
expect 0 '^no known vulnerabilities$'
for tool in govulncheck npm pip-audit; do
  answer "$tool" silent
  expect 3 'could not be checked: nothing is known of them'
  answer "$tool" found
  expect 1 '^known vulnerabilities in'
  answer "$tool" clean
done
answer pip-audit broken
expect 3 '^could not check: Python'
everything silent
expect 3 '^could not check: npm'
answer npm found
expect 1 'nothing is known of them'
echo 'make audit tells a clean bill, a finding and silence apart'
