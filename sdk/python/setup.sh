# Sourced by the other scripts, in this folder: installs what they need into .venv, and takes the package from where it lies.
../../tools/venv.sh "$PWD" requirements-dev.txt
echo "$PWD/src" >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/agentrouter_sdk.pth"
export PATH="$PWD/.venv/bin:$PATH" # The generator looks for ruff there.
