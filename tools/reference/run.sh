#!/usr/bin/env bash
# Shows that programs like the published examples need nothing of this repository but what `make dist` packs. Each program
# gets a folder of its own, with the tarball unpacked in third_party, and runs against a live service.
#   tools/reference/run.sh [FOLDER]
# FOLDER (fixtures, unless given) holds LANGUAGE/METHOD/ for go, python and typescript, and register, get, list and revoke;
# files of LANGUAGE/ itself go with each method. In a file that ends in .tmpl, {{provider}} and the like are filled in.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ ${1-} != live ]]; then
  ../deps.sh node python
  programs=$(cd "${1:-fixtures}" && pwd)
  exec ../live.sh "$PWD/run.sh" live "$programs"
fi
programs=$2
sdk=$(cd ../../sdk && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
secret=sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001
id=

# lay LANGUAGE METHOD: copies the program's files into the language's folder, and fills in the placeholders.
lay() {
  local file name
  for file in "$programs/$1"/* "$programs/$1/$2"/*; do
    [[ -f $file ]] || continue
    name=$(basename "$file")
    if [[ $name == *.tmpl ]]; then
      sed "s/{{customer_id}}/acme/; s/{{project_id}}/chat/; s/{{provider}}/openai/; s/{{name}}/published-$1/
        s/{{secret}}/$secret/; s/{{id}}/$id/" "$file" >"$work/$1/${name%.tmpl}"
    else
      cp "$file" "$work/$1/$name"
    fi
  done
  if grep -rE --include='main.*' --include=index.ts '\{\{[a-z_]+\}\}' "$work/$1" --exclude-dir=third_party \
    --exclude-dir=node_modules --exclude-dir=venv; then
    echo 'a placeholder was not filled in' >&2
    return 1
  fi
}

prepare() {
  mkdir -p "$work/$1/third_party"
  "$sdk/$1/dist.sh" "$work/dist" >/dev/null
  tar -xzf "$work"/dist/agentrouter-"$1"-*.tar.gz -C "$work/$1/third_party"
}

# Nothing is fetched: the SDK needs the standard library alone.
run_go() {
  GOPROXY=off GOFLAGS='' GOWORK=off CGO_ENABLED=0 go run .
}

install_python() {
  local pip=(venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input)
  python3 -m venv venv
  # Install the SDK's dependencies first, by hash, so that the program's own list adds only the SDK.
  "${pip[@]}" --require-hashes --requirement "$sdk/python/requirements.txt" --requirement "$sdk/python/requirements-dist.txt"
  "${pip[@]}" --no-index --no-build-isolation --requirement requirements.txt
}
run_python() {
  venv/bin/python main.py
}

install_typescript() {
  npm install --no-audit --no-fund --loglevel=error >/dev/null
}
run_typescript() {
  npx --no-install tsc --noEmit --project . && npx --yes tsx index.ts
}

# check LANGUAGE METHOD: runs one program, and checks its output.
check() {
  local output want
  output=$(cd "$work/$1" && "run_$1" 2>&1) || { printf '%s %s failed:\n%s\n' "$1" "$2" "$output" >&2 && return 1; }
  case $2 in
    register)
      id=$(grep -oE 'byok_[0-9A-Z]{26}' <<<"$output" | head -1) || true
      want=active
      ;;
    get | list) want=${id:-none} ;;
    revoke) want=receipt ;;
  esac
  if [[ -z $id ]] || ! grep -qF "$want" <<<"$output" || grep -qF "$secret" <<<"$output"; then
    printf '%s %s shows this:\n%s\n' "$1" "$2" "$output" >&2
    return 1
  fi
  echo "$1 $2: ok"
}

for language in go python typescript; do
  prepare "$language"
  for method in register get list revoke; do
    lay "$language" "$method"
    # All programs of a language need the same packages as the first.
    if [[ $method == register && $(type -t "install_$language") == function ]]; then
      (cd "$work/$language" && "install_$language")
    fi
    check "$language" "$method"
  done
done
