#!/usr/bin/env bash
# Runs the code samples of spec/aikeys.yaml as written: curl, Go, Python and TypeScript, each language on a live service of
# its own and with the SDK of this tree. samples.py says what each sample must print.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$(cd ../.. && pwd)
../deps.sh node python curl

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ -z ${AIKEYSD-} ]]; then
  export AIKEYSD=$work/aikeysd
  CGO_ENABLED=0 go build -C "$root" -o "$work/" ./cmd/aikeysd ./cmd/aikeys-gateway
fi

cd "$root/sdk/typescript"
# shellcheck source=/dev/null
source scripts/install.sh
package=$work/TypeScript/node_modules/@tetrate/agentrouter-sdk
mkdir -p "$package"
scripts/build.sh "$package/dist"
cp package.json "$package/"
ln -s "$PWD/node_modules/@types" "$work/TypeScript/node_modules/@types"

cd "$root/sdk/python"
# shellcheck source=/dev/null
source setup.sh

for language in curl Go Python TypeScript; do
  mkdir -p "$work/$language"
  LIVE_ENV="AIKEYS_VERIFY=control_plane HTTPS_PROXY=http://127.0.0.1:9" "$root/tools/live.sh" python "$root/tools/samples/samples.py" "$root" "$language" "$work/$language"
done
