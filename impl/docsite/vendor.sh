#!/usr/bin/env bash
# Fetches the API reference's library, Scalar, from npm and compresses it into assets/. The package must have the pinned hash.
# "vendor.sh --check" changes nothing and fails if assets/ has other contents. To upgrade, change the version and the hash, run
# this script and impl/docsite/browser.sh, and look at the pages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

package=@scalar/api-reference
version=1.72.1
integrity=sha512-XpEJ0rfc/cXbCrR+iC4kK0o/WwX2dTtGQbT049OlPKAHD6IMIFdTeGz2r+M27P2EDWKyUITRm/NzlP8z2pw/Ow==

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "$package@$version" >/dev/null)
archive=$(echo "$work"/*.tgz)
got=sha512-$(node -p 'crypto.createHash("sha512").update(fs.readFileSync(process.argv[1])).digest("base64")' "$archive")
if [[ $got != "$integrity" ]]; then
  echo "$package@$version is not what is pinned: $got" >&2
  exit 1
fi
tar -xzf "$archive" -C "$work" package/dist/browser/standalone.js
library=$work/package/dist/browser/standalone.js

if [[ ${1:-} == --check ]]; then
  gzip -dc assets/scalar.js.gz | cmp - "$library"
  exit
fi
gzip --no-name --best <"$library" >assets/scalar.js.gz
sed -i -E "s|^Version .*|Version $version, dist/browser/standalone.js of $package, unchanged.|" assets/scalar.LICENSE
