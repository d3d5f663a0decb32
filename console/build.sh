#!/usr/bin/env bash
# Checks the console's source, runs its unit tests, and builds it into impl/docsite/console. "build.sh --check" changes nothing and
# fails unless the committed files are exactly what the source builds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
../tools/deps.sh node
source ./install.sh

npm run --silent types >/dev/null
npm run --silent check
npm test --silent

built=../impl/docsite/console
out=$built
if [[ ${1-} == --check ]]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
npx --no-install vite build --logLevel error --outDir "$out" --emptyOutDir

# The script that a browser loads before it shows anything, compressed like the service does it.
size=$(gzip -9 <"$out/app.js" | wc -c)
if ((size > 110 * 1024)); then
  echo "the console's script has $size bytes compressed; the limit is $((110 * 1024))" >&2
  exit 1
fi
if [[ $out != "$built" ]] && ! diff -rq "$out" "$built" >&2; then
  echo 'impl/docsite/console is not what console/ builds: run make console and commit the result' >&2
  exit 1
fi
