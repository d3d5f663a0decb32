# Sourced by the other scripts, in this folder: installs what they need into .venv, once for each list of requirements.
wanted=$(cat requirements-dev.txt pyproject.toml | sha256sum)
if [[ ! -f .venv/installed || $(cat .venv/installed) != "$wanted" ]]; then
  rm -rf .venv
  python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
  # The package itself is taken from where it lies.
  echo "$PWD/src" >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/agentrouter_sdk.pth"
  echo "$wanted" >.venv/installed
fi
export PATH="$PWD/.venv/bin:$PATH" # The generator looks for ruff there.
