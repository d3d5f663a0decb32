#!/usr/bin/env bash
# Makes sure of programs that tests and benchmarks need beside Go itself, named as arguments: compiler (for the race
# detector), postgres, curl, wrk. As root on a machine with apt it installs what is missing; elsewhere it says what to.
set -euo pipefail

have() {
  case $1 in
    compiler) command -v "$(go env CC)" ;;
    postgres) command -v postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' ;;
    *) command -v "$1" ;;
  esac >/dev/null
}

packages_of() {
  case $1 in
    compiler) echo gcc libc6-dev ;;
    postgres) echo postgresql ;;
    *) echo "$1" ;;
  esac
}

packages=()
for program in "$@"; do
  # shellcheck disable=SC2207 # package names hold no spaces
  have "$program" || packages+=($(packages_of "$program"))
done

if [[ ${#packages[@]} -gt 0 && $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
  echo "installing: ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  apt-get install -qq --yes --no-install-recommends "${packages[@]}" </dev/null
fi

status=0
for program in "$@"; do
  have "$program" && continue
  if [[ $program == compiler ]]; then
    echo 'no C compiler: the tests will run without the race detector' >&2
    continue
  fi
  status=1
  cat >&2 <<MESSAGE
$program is needed and not on this machine. Install it:
  Debian, Ubuntu   sudo apt-get install $(packages_of "$program")
  Fedora           sudo dnf install ${program/postgres/postgresql-server}
  macOS            brew install ${program/postgres/postgresql@15}
MESSAGE
done
exit "$status"
