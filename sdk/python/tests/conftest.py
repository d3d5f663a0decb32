from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterator

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _aikeysd(folder: Path) -> str:
    """Return the service's program, built unless AIKEYSD says where one is."""
    given = os.environ.get("AIKEYSD")
    if given:
        return given
    environment = {**os.environ, "CGO_ENABLED": "0"}
    build = ["go", "build", "-o", f"{folder}/", "./cmd/aikeysd", "./cmd/aikeys-gateway"]
    subprocess.run(build, cwd=ROOT, env=environment, check=True)
    return str(folder / "aikeysd")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dict[str, str]]:
    """Start the service, and return the variables of its session file."""
    folder = tmp_path_factory.mktemp("live")
    listeners = ("--listen", "--dataplane-listen", "--ops-listen", "--gateway-listen")
    command = [_aikeysd(folder), "dev", "--data", str(folder / "data")]
    for listener in listeners:
        command += [listener, "127.0.0.1:0"]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            yield _session(process, folder / "data" / "session.env", log)
        finally:
            process.terminate()
            process.wait(30)


def _session(process: subprocess.Popen[bytes], path: Path, log: Path) -> Dict[str, str]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        if path.exists() and "AGENTROUTER_BASE_URL" in path.read_text():
            return _variables(path.read_text())
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def _variables(text: str) -> Dict[str, str]:
    found = {}
    for line in text.splitlines():
        name, given, value = line.removeprefix("export ").partition("=")
        if given and not line.startswith("#"):
            found[name] = value.strip("'\"")
    return found
