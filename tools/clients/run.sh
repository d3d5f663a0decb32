#!/usr/bin/env bash
# Shows that teams can generate clients of their own from the documents that the service serves. Each generator must read
# /openapi.yaml and /openapi.json of a live service without an error or a warning. Its code must compile under strict
# settings with every type known, and a program that uses it must register, read, list and revoke a key.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD

if [[ ${1-} != live ]]; then
  ../deps.sh node python curl
  exec ../live.sh "$here/run.sh" live
fi

# fresh FOLDER KEY: reports whether FOLDER was filled completely, for KEY.
fresh() { [[ $(cat "$1/.stamp" 2>/dev/null) == "$2" ]]; }

install() {
  local key
  key="$(cat package.json package-lock.json | cksum)"
  if ! fresh node_modules "$key"; then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    echo "$key" >node_modules/.stamp
  fi
  ../venv.sh "$here"
}

# The generators need Node 22.18. If the machine's Node is older, npm's copy runs them.
choose_node() {
  local enough='const [a, b] = process.versions.node.split("."); process.exit(a > 22 || (a == 22 && b >= 18) ? 0 : 1)'
  node -e "$enough" || export PATH="$here/node_modules/node-linux-$(node -p process.arch)/bin:$PATH"
  node -e "$enough" || { echo 'the generators need Node.js 22.18 or later' >&2 && exit 1; }
}

# generate GENERATOR DOCUMENT: leaves `generated` in the folder that it runs in. DOCUMENT is a URL or a path.
generate() {
  case $1 in
    openapi-typescript) openapi-typescript "$2" --output generated.ts ;;
    hey-api) openapi-ts --input "$2" --output generated ;;
    orval) DOCUMENT=$2 TARGET=$PWD/generated.ts orval --config "$here/typescript/orval.config.mjs" ;;
    openapi_python_client)
      openapi-python-client generate "$(kind "$2" --url --path)" "$2" --output-path generated --meta none \
        --fail-on-warning
      ;;
    datamodel_code_generator)
      datamodels "$2" generated.py pydantic_v2.BaseModel &&
        datamodels "$2" models.py pydantic_v2.dataclass
      ;;
  esac
}
kind() { if [[ $1 == http* ]]; then echo "$2"; else echo "$3"; fi; }

# datamodels DOCUMENT FILE KIND: generates models. The generator wants an explicit formatter, and permission to read from
# this machine; mypy needs annotated types.
datamodels() {
  datamodel-codegen "$(kind "$1" --url --input)" "$1" --allow-private-network --input-file-type openapi --formatters \
    builtin --use-annotated --disable-timestamp --output "$2" --output-model-type "$3"
}

# quiet GENERATOR DOCUMENT FOLDER: generates there, and fails if the generator fails or prints a complaint.
complaints='warn|deprecat|error|exception|invalid|unsupported|unresolv|unknown|unable|skip|ignor|fail'
complaints+='|cannot|can.t|missing|duplicat'
quiet() {
  local output=$3.log
  mkdir -p "$3"
  if ! (cd "$3" && generate "$1" "$2") >"$output" 2>&1 </dev/null || grep -qiE "$complaints" "$output"; then
    return 1
  fi
}

install
choose_node
export PATH="$here/node_modules/.bin:$here/.venv/bin:$PATH" NO_COLOR=1 PYTHONDONTWRITEBYTECODE=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
typescript=(openapi-typescript hey-api orval)
python=(openapi_python_client datamodel_code_generator)

# The check itself is checked: every generator must complain about a dangling reference.
curl -sSf -o "$work/openapi.yaml" "$AGENTROUTER_BASE_URL/openapi.yaml"
sed "s|'#/components/schemas/KeyState'|'#/components/schemas/Gone'|" "$work/openapi.yaml" >"$work/flawed.yaml"
cmp -s "$work/openapi.yaml" "$work/flawed.yaml" && { echo 'the flawed document has no flaw' >&2 && exit 1; }
for generator in "${typescript[@]}" "${python[@]}"; do
  if quiet "$generator" "$work/flawed.yaml" "$work/flawed/$generator"; then
    echo "nothing is noticed when $generator reads a flawed document" >&2
    cat "$work/flawed/$generator.log" >&2
    exit 1
  fi
done

for generator in "${typescript[@]}" "${python[@]}"; do
  for format in yaml json; do
    if ! quiet "$generator" "$AGENTROUTER_BASE_URL/openapi.$format" "$work/$format/$generator"; then
      echo "$generator does not take /openapi.$format without complaint:" >&2
      cat "$work/$format/$generator.log" >&2
      exit 1
    fi
  done
  # The two forms of the document make the same client, but for a comment that names the form.
  diff --recursive --exclude='.*_cache' --ignore-matching-lines='^#' "$work/yaml/$generator" "$work/json/$generator"
done

ln -s "$here/node_modules" "$work/node_modules"
cp package.json typescript/tsconfig.json "$work/"
for generator in "${typescript[@]}"; do
  cp typescript/contract.ts "$work/yaml/$generator/"
  cp "typescript/$generator.ts" "$work/yaml/$generator/main.ts"
done
(cd "$work" && tsc --project . --strict)
for generator in "${typescript[@]}"; do
  tsx "$work/yaml/$generator/main.ts"
  echo "$generator: no complaint, every type known, all calls answered"
done

for generator in "${python[@]}"; do
  cp python/contract.py "$work/yaml/$generator/"
  cp "python/$generator.py" "$work/yaml/$generator/main.py"
  (
    cd "$work/yaml/$generator"
    mypy --config-file="$here/python/mypy.ini" --no-error-summary --cache-dir="$work/mypy" main.py
    python -W error main.py
  )
  echo "$generator: no complaint, every type known, all calls answered"
done
