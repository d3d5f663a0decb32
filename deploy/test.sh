#!/usr/bin/env bash
# Packs the programs for this machine's architecture, as "make dist" does, and tries the result: the archive runs where there is
# no Go, a Debian package has what its service needs, and the services are confined. Then it tests the Dockerfile and the chart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/deps.sh dpkg-deb systemd-analyze curl
tools/venv.sh tools/deploy
make --no-print-directory bin/nfpm
work=$(mktemp -d) server=
trap 'trap "" TERM; [[ -z $server ]] || { kill -TERM "$server" && wait "$server"; } || true; rm -rf "$work"' EXIT

check() { # check WHAT COMMAND...
  local what=$1
  shift
  "$@" || { echo "not so: $what" >&2 && exit 1; }
}

arch=$(go env GOARCH)
VERSION=1.2.3 tools/dist-programs.sh "$work/dist" "linux/$arch" >/dev/null
mkdir "$work/empty"
tar -xzf "$work/dist/aikeys-1.2.3-linux-$arch.tar.gz" -C "$work/empty" --strip-components=1

echo 'every program has its version, a manual page and completions; none needs a library'
for program in aikeysd aikeys-gateway secrets-svc tare; do
  check "$program --version" grep -q "^$program version 1.2.3 " <("$work/empty/bin/$program" --version)
  check "$program.1" grep -q '^.SH NAME' "$work/empty/share/man/man1/$program.1"
  check "$program's completion" test -s "$work/empty/share/bash-completion/completions/$program"
  check "$program is static" grep -q 'not a dynamic executable\|statically linked' <(ldd "$work/empty/bin/$program" 2>&1 || true)
done
check 'licences are there' grep -q '^==== github.com/spf13/cobra v' "$work/empty/THIRD_PARTY_LICENSES"

echo 'the archive is enough to run everything and to log in'
mkdir "$work/user"
cd "$work/user"
clean=(env -i HOME="$work/user" PATH="$work/empty/bin:/usr/bin:/bin")
"${clean[@]}" aikeysd dev --listen 127.0.0.1:0 --dataplane-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 --gateway-listen 127.0.0.1:0 \
  >"$work/dev.out" 2>"$work/dev.err" &
server=$!
until grep -q 'Ctrl-C stops it' "$work/dev.out"; do
  kill -0 "$server" 2>/dev/null || { cat "$work/dev.err" >&2 && exit 1; }
  sleep 0.1
done
# shellcheck disable=SC1091 # written by aikeysd
. "$work/user/data/session.env"
"${clean[@]}" tare login --base-url "$AGENTROUTER_BASE_URL" <<<"$AGENTROUTER_API_KEY" >/dev/null 2>&1
check 'tare whoami' grep -q alice <("${clean[@]}" tare whoami)
kill -TERM "$server"
wait "$server"
server=
cd - >/dev/null

echo 'each Debian package has its program, its unit and settings that the program knows'
for program in aikeysd aikeys-gateway secrets-svc tare; do
  package=$work/dist/${program}_1.2.3_$arch.deb
  check "$program: its version" test "$(dpkg-deb --field "$package" Package Version | paste -sd' ')" = "Package: $program Version: 1.2.3"
  dpkg-deb --extract "$package" "$work/root"
  check "/usr/bin/$program" test -x "$work/root/usr/bin/$program"
  check "man $program" test -s "$work/root/usr/share/man/man1/$program.1.gz"
  [[ $program != tare ]] || continue
  mkdir -p "$work/control"
  dpkg-deb --control "$package" "$work/control/$program"
  for script in postinst prerm postrm; do check "$program: $script" sh -n "$work/control/$program/$script"; done
  unit=$work/root/lib/systemd/system/$program.service
  settings=$(sed -n 's/^EnvironmentFile=//p' "$unit")
  check "$settings is a configuration file" grep -qx "$settings" "$work/control/$program/conffiles"
  "$work/root/usr/bin/$program" serve --help >"$work/help"
  for name in $(grep -oE '\b(AIKEYS|SECRETS_SVC)_[A-Z_]+=' "$work/root$settings" | tr -d =); do
    check "$program has the setting $name" grep -q "\[$name\]" <(tr -s ' \n' ' ' <"$work/help")
  done
  # 0 is confined, 100 is not at all.
  check "$program is confined" systemd-analyze security --offline=true --no-pager --threshold=20 "$unit" >"$work/security"
done

echo 'the Dockerfile and the chart are in order'
tools/deploy/.venv/bin/hadolint Dockerfile
deploy/helm/test.sh
