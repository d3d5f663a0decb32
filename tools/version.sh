#!/usr/bin/env bash
# Prints the version of the checkout, from git: 1.2.3 at the tag v1.2.3; 1.2.3+4.gabc1234567 four commits after it, which
# sorts between it and 1.2.4; 0.0.0+… before the first tag; with .dirty at the end if files were changed. VERSION overrides it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -z ${VERSION-} ]] || { echo "$VERSION" && exit; }
git rev-parse --git-dir >/dev/null 2>&1 || { echo 'this is no git checkout: set VERSION, such as VERSION=1.2.3' >&2 && exit 1; }
if tag=$(git describe --tags --match 'v[0-9]*' --abbrev=0 2>/dev/null); then
  version=${tag#v} since=$(git rev-list --count "$tag..HEAD")
else
  version=0.0.0 since=$(git rev-list --count HEAD)
fi
[[ $since == 0 ]] || version+=+$since.g$(git rev-parse --short=10 HEAD)
if [[ -n $(git status --porcelain --untracked-files=no) ]]; then
  [[ $version == *+* ]] && version+=.dirty || version+=+dirty
fi
echo "$version"
