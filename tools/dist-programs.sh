#!/usr/bin/env bash
# Packs the programs into OUTDIR, for each PLATFORM (all, unless named):
#   aikeys-VERSION-OS-ARCH.tar.gz   all programs, for Linux and macOS
#   tare-VERSION-OS-ARCH.tar.gz     tare alone; a .zip for Windows
#   NAME_VERSION_ARCH.deb           a Debian package for each of aikeysd, aikeys-gateway, secrets-svc and tare
# The servers are not for Windows: unix sockets' peers, file owners, locks and limits guard their keys. The archives have
# manual pages, completions and the licences of all linked modules. The same commit and Go version make the same bytes. Each
# line of the output names a file; for an archive also its system, and for an archive of one program its package.
#   tools/dist-programs.sh OUTDIR [PLATFORM...]
set -euo pipefail
out=$(mkdir -p "${1:?usage: dist-programs.sh OUTDIR [PLATFORM...]}" && cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
platforms=("$@")
[[ $# -gt 0 ]] || platforms=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64)
programs=(aikeysd aikeys-gateway secrets-svc tare)

version=$(tools/version.sh)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
release="$version $(git rev-parse HEAD 2>/dev/null || true)"
export SOURCE_DATE_EPOCH CGO_ENABLED=0 LC_ALL=C TZ=UTC
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

say() { printf '%s\n' "$*" >&2; }

# build FOLDER OS ARCH PROGRAM...: builds the programs with the release's version, and without names of hosts and folders.
build() {
  GOOS=$2 GOARCH=$3 go build -trimpath -buildvcs=false -o "$1/" \
    -ldflags "-s -w -buildid= -X 'github.com/agentrouter/aikeys/cmd/internal/cli.release=${release% }'" "${@:4}"
}

# write_manuals: writes the manual pages and completions, with programs built for this machine.
write_manuals() {
  local program share=$work/share shell
  say 'writing manual pages and completions'
  go build -tags manual -trimpath -buildvcs=false -o "$work/host/" "${programs[@]/#/./cmd/}"
  mkdir -p "$share"/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d,powershell}
  for program in "${programs[@]}"; do
    "$work/host/$program" manual "$work/man/$program"
    "$work/host/$program" completion bash >"$share/bash-completion/completions/$program"
    "$work/host/$program" completion zsh >"$share/zsh/site-functions/_$program"
    "$work/host/$program" completion fish >"$share/fish/vendor_completions.d/$program.fish"
    "$work/host/$program" completion powershell >"$share/powershell/$program.ps1"
  done
}

# write_licences FILE OS ARCH PACKAGE...: writes the licences of the linked modules, and Go's own.
write_licences() {
  local module folder file
  {
    GOOS=$2 GOARCH=$3 go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' "${@:4}" | sort -u
    echo "Go $(go env GOVERSION) $(go env GOROOT)"
  } | while read -r module folder_version folder; do
    for file in "$folder"/{LICENSE,LICENCE,COPYING,NOTICE}*; do
      [[ -f $file ]] || continue
      printf '\n==== %s %s: %s\n\n' "$module" "$folder_version" "${file##*/}"
      cat "$file"
    done
  done >"$1"
}

# pack STEM OS: makes STEM.tar.gz, or STEM.zip for Windows, of the folder $work/STEM.
pack() {
  find "$work/$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  if [[ $2 == windows ]]; then
    python3 - "$work" "$1" "$out/$1.zip" <<'PYTHON'
import os, pathlib, sys, time, zipfile
work, stem, target = sys.argv[1:]
date = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6]
with zipfile.ZipFile(target, "w") as archive:
    for path in sorted(pathlib.Path(work, stem).rglob("*")):
        if path.is_file():
            entry = zipfile.ZipInfo(str(path.relative_to(work)), date)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, path.stat().st_mode << 16
            archive.writestr(entry, path.read_bytes())
PYTHON
    echo "$out/$1.zip"
  else
    tar --create --directory="$work" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner \
      --mtime="@$SOURCE_DATE_EPOCH" "$1" | gzip --no-name --best >"$out/$1.tar.gz"
    echo "$out/$1.tar.gz"
  fi
}

# stage_tare STEM OS ARCH: lays out the folder of tare's own archive.
stage_tare() {
  local top=$work/$1 suffix=
  [[ $2 != windows ]] || suffix=.exe
  mkdir -p "$top/bin"
  cp "$work/$2-$3/tare$suffix" "$top/bin/"
  cp LICENSE "$top/"
  write_licences "$top/THIRD_PARTY_LICENSES" "$2" "$3" ./cmd/tare
  if [[ $2 == windows ]]; then
    cp "$work/share/powershell/tare.ps1" "$top/"
    return
  fi
  mkdir -p "$top"/share/{man/man1,bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
  cp "$work"/man/tare/*.1 "$top/share/man/man1/"
  cp "$work/share/bash-completion/completions/tare" "$top/share/bash-completion/completions/"
  cp "$work/share/zsh/site-functions/_tare" "$top/share/zsh/site-functions/"
  cp "$work/share/fish/vendor_completions.d/tare.fish" "$top/share/fish/vendor_completions.d/"
}

# stage_all STEM OS ARCH: lays out the folder of the archive with all programs.
stage_all() {
  local top=$work/$1
  mkdir -p "$top/bin" "$top/share/man/man1"
  cp "$work/$2-$3"/* "$top/bin/"
  cp LICENSE "$top/"
  write_licences "$top/THIRD_PARTY_LICENSES" "$2" "$3" ./cmd/...
  cp "$work"/man/*/*.1 "$top/share/man/man1/"
  cp -R "$work"/share/{bash-completion,zsh,fish} "$top/share/"
}

# pack_debs ARCH FOLDER: makes a Debian package for each program, from the folder of the archive with all of them.
pack_debs() {
  local program page file
  for program in "${programs[@]}"; do
    mkdir -p "$work/gz/$program"
    for page in "$work/man/$program"/*.1; do gzip --no-name --best <"$page" >"$work/gz/$program/${page##*/}.gz"; done
    file=$out/${program}_${version}_$1.deb
    ARCH=$1 VERSION=$version STAGE=$2 MANUALS=$work/gz/$program bin/nfpm package --config "deploy/deb/$program.yaml" \
      --packager deb --target "$file" >&2
    echo "$file"
  done
}

write_manuals
for platform in "${platforms[@]}"; do
  os=${platform%/*} arch=${platform#*/} started=$SECONDS
  stem=$version-$os-$arch
  if [[ $os == windows ]]; then
    build "$work/$os-$arch" "$os" "$arch" ./cmd/tare
  else
    build "$work/$os-$arch" "$os" "$arch" ./cmd/...
    stage_all "aikeys-$stem" "$os" "$arch"
    echo "$(pack "aikeys-$stem" "$os") $os $arch"
  fi
  stage_tare "tare-$stem" "$os" "$arch"
  echo "$(pack "tare-$stem" "$os") $os $arch cmd/tare"
  [[ $os != linux ]] || pack_debs "$arch" "$work/aikeys-$stem"
  say "$platform took $((SECONDS - started)) s"
done
