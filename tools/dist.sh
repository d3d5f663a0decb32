#!/usr/bin/env bash
# Packs the SDKs, the lint rules and the programs into OUTDIR. Beside each file it leaves NAME.sha256, and beside each archive
# NAME.cdx.json, which lists its dependencies (CycloneDX); aikeys.cdx.json lists the Go modules of the programs. The same
# sources make the same bytes. The PLATFORMS are those of tools/dist-programs.sh; "none" leaves the programs out.
#   tools/dist.sh OUTDIR [PLATFORM...]
set -euo pipefail
out=$(mkdir -p "${1:?usage: dist.sh OUTDIR [PLATFORM...]}" && cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
tools/venv.sh tools/audit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# list_modules ARGUMENT...: runs cyclonedx-gomod, and shows its log only if it fails.
list_modules() {
  "$root/bin/cyclonedx-gomod" "$@" 2>"$work/log" || {
    cat "$work/log" >&2
    return 1
  }
}

modules() { list_modules mod -json -std -noserial -notimestamp -type "$1" -output "$work/sbom" "$2"; }

# list_parts KIND FOLDER: writes an unpacked archive's dependencies to $work/sbom.
list_parts() {
  case $1 in
    go) modules library "$2" ;;
    python)
      PYTHONWARNINGS=ignore tools/audit/.venv/bin/cyclonedx-py requirements --pyproject "$2/pyproject.toml" --mc-type library \
        --output-reproducible --output-file "$work/sbom" sdk/python/requirements.txt
      ;;
    typescript | lint)
      (
        cd "$2"
        npm install --package-lock-only --ignore-scripts --omit=peer --legacy-peer-deps --offline --no-audit --no-fund --loglevel=error >/dev/null
        "$root/tools/audit/node_modules/.bin/cyclonedx-npm" --package-lock-only --omit dev --omit peer --mc-type library \
          --output-reproducible --output-file "$work/sbom" package.json
      )
      ;;
  esac
}

# finish FILE [ARCHIVE VERSION]: writes $work/sbom to FILE, without the tool's own hashes, which differ from machine to
# machine, and with the archive's.
finish() {
  python3 - "$work/sbom" "$@" <<'PYTHON'
import hashlib, json, sys
source, target, *archive = sys.argv[1:]
sbom = json.load(open(source, encoding="utf-8"))
tools = sbom["metadata"].get("tools", [])
for tool in tools if isinstance(tools, list) else tools.get("components", []):
    tool.pop("hashes", None)
if archive:
    digest = hashlib.sha256(open(archive[0], "rb").read()).hexdigest()
    sbom["metadata"]["component"] |= {"version": archive[1], "hashes": [{"alg": "SHA-256", "content": digest}]}
with open(target, "w", encoding="utf-8") as file:
    json.dump(sbom, file, indent=2)
    file.write("\n")
PYTHON
}

write_hash() { (cd "$out" && sha256sum "$1" >"$1.sha256"); }

for kind in go python typescript lint; do
  mkdir "$work/$kind"
  if [[ $kind == lint ]]; then spec/lint/dist.sh "$work/$kind"; else "sdk/$kind/dist.sh" "$work/$kind" >/dev/null; fi
  archive=$(basename "$work/$kind"/*.tar.gz)
  stem=${archive%.tar.gz}
  cp "$work/$kind/$archive" "$out/"
  write_hash "$archive"
  tar -xzf "$out/$archive" -C "$work"
  list_parts "$kind" "$work/$stem"
  finish "$out/$archive.cdx.json" "$out/$archive" "${stem##*-}"
  echo "$out/$archive"
done
modules application .
finish "$out/aikeys.cdx.json"
echo "$out/aikeys.cdx.json"

[[ ${1-} != none ]] || exit 0
version=$(tools/version.sh)
tools/dist-programs.sh "$out" "$@" | while read -r file os arch main; do
  write_hash "${file##*/}"
  if [[ -n $main ]]; then
    GOOS=$os GOARCH=$arch list_modules app -json -std -noserial -notimestamp -main "$main" -output "$work/sbom" .
    finish "$file.cdx.json" "$file" "$version"
  elif [[ -n $os ]]; then
    modules application .
    finish "$file.cdx.json" "$file" "$version"
  fi
  echo "$file"
done
