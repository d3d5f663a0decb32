"""What is handed out: the tarball, installed as a program does, and the examples in it, run on the service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any, Dict

import pytest
import yaml

from agentrouter_sdk import __version__

SDK = Path(__file__).resolve().parents[1]
NAME = f"agentrouter-python-{__version__}"


def pack(folder: Path) -> Path:
    subprocess.run([str(SDK / "dist.sh"), str(folder)], check=True)
    return folder / f"{NAME}.tar.gz"


@pytest.fixture(name="installed", scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a program that has the tarball unpacked in third_party and its requirements installed."""
    program = tmp_path_factory.mktemp("program")
    (program / "third_party").mkdir()
    with tarfile.open(pack(program / "dist")) as tarball:
        tarball.extractall(program / "third_party", filter="data")
    venv.create(program / "venv", with_pip=True)
    requirements = (SDK / "examples" / "get" / "requirements.txt").read_text()
    (program / "requirements.txt").write_text(requirements)
    pip = [str(program / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # What the SDK needs comes first, checked by hash, so that the program's own list brings the SDK alone.
    lists = ["-r", str(SDK / "requirements.txt"), "-r", str(SDK / "requirements-dist.txt")]
    subprocess.run([*pip, "--require-hashes", *lists], cwd=program, check=True)
    # pip would take what it once built in a folder of the same name.
    own = ["--no-index", "--no-build-isolation", "--no-cache-dir", "-r", "requirements.txt"]
    subprocess.run([*pip, *own], cwd=program, check=True)
    return program


def test_the_same_sources_make_the_same_bytes(tmp_path: Path) -> None:
    assert pack(tmp_path / "one").read_bytes() == pack(tmp_path / "two").read_bytes()


def test_the_tarball_holds_one_folder_of_its_name_and_no_leavings(tmp_path: Path) -> None:
    with tarfile.open(pack(tmp_path)) as tarball:
        names = tarball.getnames()
    assert {name.split("/")[0] for name in names} == {NAME}
    assert f"{NAME}/src/agentrouter_sdk/py.typed" in names
    assert not [name for name in names if re.search(r"__pycache__|\.pyc|\.venv|_cache", name)]


@pytest.mark.parametrize("example", ["register", "get", "list", "revoke"])
def test_each_examples_requirements_name_this_version(example: str) -> None:
    assert f"third_party/{NAME}\n" in (SDK / "examples" / example / "requirements.txt").read_text()


def test_the_examples_run_on_the_service(installed: Path, live: Dict[str, str]) -> None:
    def run(example: str) -> str:
        script = installed / "third_party" / NAME / "examples" / example / "main.py"
        environment = {**os.environ, **live, "OPENAI_API_KEY": "sk-MARKED-0123456789abcdef0123456789-wxyz"}
        done = subprocess.run(
            [str(installed / "venv/bin/python"), str(script)],
            cwd=installed,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "MARKED" not in done.stdout + done.stderr
        return done.stdout

    registered = run("register")
    assert registered.startswith("RegisterResponse(key=Key(id='byok_")
    assert "display_suffix='wxyz'" in registered
    assert "state='active'" in run("get")
    assert "active openai openai-prod …wxyz" in run("list")
    assert run("revoke").startswith("RevokeResponse(receipt=Receipt(")
    assert "state='revoked'" in run("get")


def test_the_contracts_samples_pass_the_type_checker(tmp_path: Path) -> None:
    document: Dict[str, Any] = yaml.safe_load((SDK / "../../spec/aikeys.yaml").read_text(encoding="utf-8"))
    operations = [
        operation for item in document["paths"].values() for name, operation in item.items() if name != "parameters"
    ]
    for operation in operations:
        (sample,) = (sample for sample in operation["x-codeSamples"] if sample["label"] == "Python")
        (tmp_path / f"{operation['operationId']}.py").write_text(sample["source"], encoding="utf-8")
    assert len(list(tmp_path.glob("*.py"))) == len(operations)
    settings = ("--strict", "--python-version=3.9", "--cache-dir=" + str(tmp_path / "cache"))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, str(tmp_path)], cwd=SDK, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_the_readmes_programs_pass_the_type_checker(tmp_path: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", (SDK / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert programs
    for number, program in enumerate(programs):
        (tmp_path / f"program{number}.py").write_text(program, encoding="utf-8")
    settings = ("--strict", "--python-version=3.9", "--cache-dir=" + str(tmp_path / "cache"))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, str(tmp_path)], cwd=SDK, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
