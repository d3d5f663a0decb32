"""Runs the samples of one language on the service that the environment names: samples.py ROOT LANGUAGE FOLDER."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable

import yaml

SECRET = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001"
NEXT_SECRET = SECRET.replace("EXAMPLE", "ROTATED", 1)
PLACEHOLDER = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"
TOKEN = "01M7W0BTX000000000000000AK"
ULID = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
KEY_ID = r"byok_[0-9A-Z]{26}"

# In the order in which they run, what each must show, whichever the language: the key is there to be read before it is
# revoked, and the policy is read before it is written.
WANT = {
    "whoAmI": ["alice", "acme", "chat"],
    "getSignInOptions": ["api_key"],
    "listProviders": ["openai", "vertexanthropic"],
    "addCustomProvider": ["x-vllm", "bearer"],
    "listCustomProviders": ["x-vllm", "https://llm.acme.example/v1"],
    "removeCustomProvider": ["x-vllm"],
    "registerKey": [KEY_ID],
    "listKeys": [KEY_ID, "openai-prod", "active"],
    "getKey": ["openai-prod", "active"],
    "verifyKey": ["unreachable"],  # run.sh leaves the service no way out
    "resolveKey": ["project_key"],
    "rotateKey": ["(?i)true|false"],
    "listKeyVersions": ["active", "retiring"],
    "rollbackKey": ["1"],
    "activateKeyVersion": ["complete|pending"],
    "destroyKeyVersion": ["destroyed"],
    "getPolicy": ["allow", "fail"],
    "setPolicy": ["require", "fail"],
    "setMember": ["member"],
    "listMembers": ["alice", "owner", "bob", "member"],
    "getMemberImpact": ["bob"],
    "removeMember": [],
    "restoreMember": ["member"],
    "updateKey": ["complete|pending"],
    "findLeaks": ["matches"],
    "revokeKey": ["complete|pending"],
    "listProjects": ["chat", "owner"],
    "createToken": [ULID],
    "listTokens": ["nightly-eval", "active"],
    "listProjectTokens": [ULID, "alice", "active"],
    "revokeProjectToken": ["complete|pending"],
    "revokeToken": ["complete|pending"],
    "listFetches": [],
    "listUsage": [],  # no data plane serves here
    "listEvents": [r"key\.registered", r"key\.verified", r"key\.revoked", r"member\.removed", "allowed"],
}


def samples_of(document: Path, language: str) -> dict[str, str]:
    """Return the language's sample of each operation."""
    paths = yaml.safe_load(document.read_text(encoding="utf-8"))["paths"]
    operations = [part for item in paths.values() for name, part in item.items() if name != "parameters"]
    found = {
        operation["operationId"]: sample["source"]
        for operation in operations
        for sample in operation["x-codeSamples"]
        if sample["label"] == language
    }
    if set(found) != set(WANT) or len(operations) != len(WANT):
        sys.exit(f"{language}: samples of {sorted(found)}, and WANT has {sorted(WANT)}")
    return found


def execute(command: list[str], folder: Path) -> str:
    """Return what a command prints. One that fails, or that has anything to say on stderr, ends the program."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0 or done.stderr:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def curl(_root: Path, _folder: Path, _samples: dict[str, str]) -> Callable[[str, str], list[str]]:
    return lambda _name, source: ["bash", "-euo", "pipefail", "-c", source]


def go(root: Path, folder: Path, samples: dict[str, str]) -> Callable[[str, str], list[str]]:
    """Make each sample a function of one program, with the imports that it uses and the one that it names."""
    (folder / "go.mod").write_text(
        "module example.com/samples\n\ngo 1.26\n\nrequire github.com/tetrateio/agentrouter-go v0.0.0\n\n"
        f"replace github.com/tetrateio/agentrouter-go => {root}/sdk/go\n"
    )
    cases = "".join(f'\tcase "{name}":\n\t\t{name}(os.Args[2])\n' for name in samples)
    main = f'package main\n\nimport "os"\n\nfunc main() {{\n\tswitch os.Args[1] {{\n{cases}\t}}\n}}\n'
    (folder / "main.go").write_text(main)
    for name, source in samples.items():
        imports = re.findall(r"(?m)^// import (.+)$", source)
        imports += [f'"{package}"' for package in ("context", "fmt", "log", "os") if f"{package}." in source]
        # The key's id is known when the sample runs.
        body = source.replace(f'"{PLACEHOLDER}"', "id").replace(f'"{TOKEN}"', "id")
        text = "package main\n\nimport (\n" + "\n".join(imports) + f"\n)\n\nfunc {name}(id string) {{\n{body}}}\n"
        (folder / f"{name}.go").write_text(text)
    os.environ.update(GOPROXY="off", GOFLAGS="", GOWORK="off", CGO_ENABLED="0")
    execute(["go", "vet", "."], folder)
    execute(["go", "build", "-o", "samples", "."], folder)
    return lambda name, source: [str(folder / "samples"), name, current_id(source)]


def python(_root: Path, folder: Path, _samples: dict[str, str]) -> Callable[[str, str], list[str]]:
    def command(name: str, source: str) -> list[str]:
        (folder / f"{name}.py").write_text(source)
        return [sys.executable, str(folder / f"{name}.py")]

    return command


def typescript(root: Path, folder: Path, samples: dict[str, str]) -> Callable[[str, str], list[str]]:
    programs = root / "sdk/typescript/node_modules/.bin"
    (folder / "package.json").write_text('{"type": "module"}')
    for name, source in samples.items():
        (folder / f"{name}.ts").write_text(source)
    settings = ["--strict", "--noEmit", "--target", "ES2022", "--module", "NodeNext", "--types", "node"]
    execute([str(programs / "tsc"), *settings, *(f"{name}.ts" for name in samples)], folder)

    def command(name: str, source: str) -> list[str]:
        (folder / f"{name}.ts").write_text(source)
        return [str(programs / "tsx"), str(folder / f"{name}.ts")]

    return command


def current_id(source: str) -> str:
    return (re.findall(KEY_ID, source) or re.findall(ULID, source) or [""])[0]


def main() -> None:
    root, language, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    samples = samples_of(root / "spec/aikeys.yaml", language)
    prepare = {"curl": curl, "Go": go, "Python": python, "TypeScript": typescript}[language]
    command = prepare(root, folder, samples)
    key_id = token = ""
    for name, want in WANT.items():
        os.environ["OPENAI_API_KEY"] = NEXT_SECRET if name == "rotateKey" else SECRET
        os.environ["LEAKED_VALUE"] = SECRET
        output = execute(command(name, samples[name].replace(PLACEHOLDER, key_id).replace(TOKEN, token)), folder)
        if name == "registerKey" and (found := re.search(KEY_ID, output)):
            key_id = found[0]
        if name == "createToken" and (found := re.search(rf"(?<!_){ULID}", output)):
            token = found[0]
        missing = [pattern for pattern in want if not re.search(pattern, output)]
        if missing or SECRET in output or NEXT_SECRET in output or (language == "curl" and "code" in json.loads(output)):
            sys.exit(f"{language} {name} does not show {missing} but:\n{output}")
    print(f"{language}: {len(WANT)} samples ran")


main()
