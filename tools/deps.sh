#!/usr/bin/env bash
# Makes sure that programs which tests and benchmarks need are installed. Its arguments name them: compiler (for the race
# detector), gnome-keyring (on Linux, with a D-Bus daemon), postgres, pgbouncer, patroni, etcd, haproxy, nginx, caddy,
# node (with npm), python (with venv), curl, wrk. As root on a machine with apt it installs the missing ones; elsewhere it
# lists them. It starts no service.
set -euo pipefail

have() {
  case $1 in
    compiler) command -v "$(go env CC)" ;;
    postgres) command -v postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' ;;
    gnome-keyring) [[ $(uname -s) != Linux ]] || { command -v gnome-keyring-daemon && command -v dbus-daemon; } ;;
    nginx | haproxy) command -v "$1" || compgen -G "/usr/sbin/$1" ;;
    node) command -v npm && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' ;;
    python) python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' ;;
    *) command -v "$1" ;;
  esac &>/dev/null
}

packages_of() {
  case $1 in
    compiler) echo gcc libc6-dev ;;
    postgres) echo postgresql ;;
    etcd) echo etcd-server ;;
    gnome-keyring) echo gnome-keyring dbus-daemon ;;
    node) echo nodejs npm ;;
    python) echo python3 python3-venv ;;
    dpkg-deb) echo dpkg ;;
    systemd-analyze) echo systemd ;;
    *) echo "$1" ;;
  esac
}

# what_is NAME: prints the name that messages use.
what_is() {
  case $1 in
    node) echo 'Node.js 20 or later, with npm,' ;;
    python) echo 'Python 3.11 or later, with its venv module,' ;;
    *) echo "$1" ;;
  esac
}

# install PACKAGE...: with apt, without starting the services that the packages bring. invoke-rc.d asks policy-rc.d.
install() {
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  apt-get install -qq --yes --no-install-recommends "$@" </dev/null
}

packages=()
for program in "$@"; do
  # shellcheck disable=SC2207 # package names hold no spaces
  have "$program" || packages+=($(packages_of "$program"))
done

if [[ ${#packages[@]} -gt 0 && $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
  echo "installing: ${packages[*]}"
  install "${packages[@]}" || true # what is missing still is said below, with a word of help
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
$(what_is "$program") is needed and not on this machine. Install it:
  Debian, Ubuntu   sudo apt-get install $(packages_of "$program")
  Fedora           sudo dnf install $(sed 's/postgres/&ql-server/; s/node/&js/; s/python/&3/' <<<"$program")
  macOS            brew install ${program/postgres/postgresql@15}
MESSAGE
done
exit "$status"
