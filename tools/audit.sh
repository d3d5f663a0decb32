#!/usr/bin/env bash
# Looks up this repository's dependencies in the databases of known vulnerabilities: Go modules with govulncheck, npm and
# Python packages with npm audit and pip-audit. It exits with
#   0  if every database answered, and none has an entry for a dependency
#   1  if there is a known vulnerability
#   3  if a database could not be asked, and the others have no entry
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=${AUDIT_TOOLS:+$AUDIT_TOOLS:}$PWD/bin:$PWD/tools/audit/.venv/bin:$PATH # AUDIT_TOOLS: the test's
[[ -n ${AUDIT_TOOLS-} ]] || tools/venv.sh tools/audit

log=$(mktemp)
trap 'rm -f "$log"' EXIT
found=() unchecked=()

# report WHAT OUTCOME: 0 means clean, 1 a finding, anything else unknown.
report() {
  case $2 in
    0) echo "no known vulnerabilities: $1" ;;
    1)
      echo "FOUND: $1"
      cat "$log"
      found+=("$1")
      ;;
    *)
      echo "could not check: $1"
      grep -v '^$' "$log" | tail -n 3 | cut -c1-300 | sed 's/^/  /'
      unchecked+=("$1")
      ;;
  esac
}

# govulncheck exits with 3 if it finds something.
audit_go() {
  local outcome=0
  govulncheck "${@:2}" >"$log" 2>&1 || outcome=$?
  case $outcome in 0) ;; 3) outcome=1 ;; *) outcome=2 ;; esac
  report "Go: $1" "$outcome"
}

# npm audit exits with 1 for a finding and also if its database does not answer; only its report says which.
audit_npm() {
  local outcome=0
  npm audit --package-lock-only --json --prefix "$1" >"$log" 2>"$log.err" || true
  node -e 'const r = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"));
    const { total } = r.metadata.vulnerabilities;
    process.exit(total === 0 ? 0 : total > 0 ? 1 : 2)' "$log" 2>>/dev/null || outcome=$?
  # node also exits with 1 if the report can't be parsed.
  [[ $outcome != 1 ]] || grep -q '"auditReportVersion"' "$log" || outcome=2
  [[ $outcome != 2 ]] || mv "$log.err" "$log"
  rm -f "$log.err"
  report "npm: $1" "$outcome"
}

# pip-audit skips packages for which its database does not answer, and exits with 0.
audit_python() {
  local outcome=0
  pip-audit --disable-pip --require-hashes --progress-spinner=off --format=json --requirement "$1" >"$log" 2>"$log.err" || true
  python3 -c 'import json, sys
packages = json.load(open(sys.argv[1]))["dependencies"]
vulnerable = [p for p in packages if p.get("vulns")]
skipped = [p["skip_reason"] for p in packages if "skip_reason" in p]
sys.exit(1 if vulnerable else 2 if skipped or not packages else 0)' "$log" 2>/dev/null || outcome=$?
  # python also exits with 1 if the report can't be parsed.
  [[ $outcome != 1 ]] || grep -q '"vulns": \[{' "$log" || outcome=2
  if [[ $outcome == 2 ]]; then
    python3 -c 'import json, sys
for p in json.load(open(sys.argv[1]))["dependencies"]: print(p.get("skip_reason", ""))' "$log" >>"$log.err" 2>/dev/null || true
    mv "$log.err" "$log"
  fi
  rm -f "$log.err"
  report "Python: $1" "$outcome"
}

for module in . sdk/go deploy/helm/test tools/localkms; do
  audit_go "$module/go.mod" -C "$module" ./...
done
for tool in govulncheck cyclonedx-gomod oasdiff golangci-lint gotestsum; do
  audit_go "tools/go.mod, bin/$tool" -mode=binary "bin/$tool"
done
audit_go 'tools/nfpm/go.mod, bin/nfpm' -mode=binary bin/nfpm
while read -r lock; do audit_npm "$(dirname "$lock")"; done < <(git ls-files '*package-lock.json')
while read -r list; do audit_python "$list"; done < <(git ls-files '*requirements*.txt' | grep -vE '/(examples|fixtures)/')

echo
if [[ ${#found[@]} -gt 0 ]]; then
  printf 'known vulnerabilities in %s\n' "${found[@]}"
fi
if [[ ${#unchecked[@]} -gt 0 ]]; then
  echo "${#unchecked[@]} could not be checked: nothing is known of them"
fi
[[ ${#found[@]} -eq 0 ]] || exit 1
[[ ${#unchecked[@]} -eq 0 ]] || exit 3
echo 'no known vulnerabilities'
