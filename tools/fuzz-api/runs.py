"""One run of schemathesis, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ALL_PHASES = "examples,coverage,fuzzing,stateful"
BRIEF = "examples,coverage"
LONGEST_LINE = 2000

Statuses = dict[str, Counter[int]]  # how often each operation answered what, by operation id


@dataclass
class Run:
    """Which document, against which server, as whom, and how far."""

    name: str
    document: Path
    url: str
    scheme: str = ""
    token: str = ""
    phases: str = ALL_PHASES
    examples: int = 1
    only: list[str] = field(default_factory=list)
    quiet: bool = False

    def config(self) -> str:
        """The credential goes into a file, since process lists show what is in argv."""
        config = (HERE / "schemathesis.toml").read_text()
        return config + (f'\n[auth.openapi.{self.scheme}]\nbearer = "{self.token}"\n' if self.token else "")

    def limit(self) -> float:
        """How many seconds it may take; a sixth of that is usual on two slow cores, which other tests share."""
        return 120 + 6 * self.examples


@dataclass
class Outcome:
    code: int
    report: dict[str, Any]
    statuses: Statuses

    def failures(self) -> set[tuple[str, str]]:
        """Which failures there are, by kind and operation, the latter as METHOD /path."""
        found = self.report.get("failures", [])
        kinds = [(f["title"] if f["type"] == "CustomFailure" else f["type"], f["operations"]) for f in found]
        return {(kind, operation) for kind, operations in kinds for operation in operations}

    def requests(self) -> int:
        return sum(counter.total() for counter in self.statuses.values())

    def complaints(self, total: int) -> list[str]:
        """What schemathesis found, or left out of `total` operations."""
        wrong = [f"{kind}: {operation}" for kind, operation in sorted(self.failures())]
        wrong += [f"error: {e['title']}" for e in self.report.get("errors", [])]
        tested = (self.report.get("operations") or {}).get("tested", 0)
        if tested != total:
            wrong.append(f"{tested} of {total} operations were tested")
        if self.code != 0 and not wrong:
            wrong.append(f"schemathesis ended with {self.code}")
        return wrong


def fuzz(run: Run, facts: dict[str, Any], work: Path) -> Outcome:
    """Runs schemathesis in a folder of its own. `facts` is what hooks.py has to know of the service."""
    folder = work / run.name.replace(" ", "-")
    folder.mkdir()
    facts_file, ledger, report = folder / "facts.json", folder / "ledger.jsonl", folder / "report.json"
    config = folder / "schemathesis.toml"
    facts_file.write_text(json.dumps(facts))
    config.write_text(run.config())
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", str(run.document)]
    argv += ["--url", run.url, "--phases", run.phases, "--max-examples", str(run.examples)]
    argv += ["--seed", str(facts["seed"]), "--report-json-path", str(report), "--no-color"]
    for operation in run.only:
        argv += ["--include-operation-id", operation]
    environment = os.environ | {
        "AIKEYS_FUZZ_FACTS": str(facts_file),
        "AIKEYS_FUZZ_LEDGER": str(ledger),
        "PYTHONPATH": str(HERE),
        "PYTHONHASHSEED": "0",
        "COLUMNS": "120",
    }
    code = follow(argv, environment, folder, run)
    return Outcome(code, json.loads(report.read_text()) if report.exists() else {}, count(ledger))


def follow(argv: list[str], environment: dict[str, str], folder: Path, run: Run) -> int:
    """Runs a program to its end, or to the run's limit, and passes on what it says."""
    process = subprocess.Popen(
        argv, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    limit = threading.Timer(run.limit(), process.kill)
    limit.start()
    try:
        for line in process.stdout or []:
            if not run.quiet:
                print("  " + shorten(line.rstrip()), flush=True)
        return process.wait()
    finally:
        limit.cancel()
        process.kill()
        process.wait()


def shorten(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + f"... ({len(line)} characters)"


def count(ledger: Path) -> Statuses:
    statuses: Statuses = defaultdict(Counter)
    for line in ledger.read_text().splitlines() if ledger.exists() else []:
        entry = json.loads(line)
        statuses[entry["operation"]][entry["status"]] += 1
    return statuses


ANNOUNCED = {"claimKeyTest", "answerKeyTest"}
"""What these name is announced to data planes that test keys, and here none does: a 404 will do."""
OPEN = {"getSignInOptions"}  # what needs no credential


def reached(statuses: Statuses, expected: list[str], refused: set[str] | None) -> list[str]:
    """What is wrong with how far a run came. Each operation answers 2xx once at least, `ANNOUNCED` perhaps 404; those in `refused` answer
    403, and 2xx never. `refused=None` stands for a run without a credential: each answers 401, and 2xx never, but for `OPEN`."""
    wrong = []
    for operation in expected:
        seen = statuses.get(operation, Counter())
        good = sum(n for status, n in seen.items() if 200 <= status < 300)
        if operation in OPEN or refused is not None and operation not in refused:
            if not good and not (operation in ANNOUNCED and seen[404]):
                wrong.append(f"{operation} was not reached: no 2xx in {dict(seen)}")
            continue
        wanted = 401 if refused is None else 403
        if good:
            wrong.append(f"{operation} answered 2xx {good} times to somebody who may not")
        if not seen[wanted]:
            wrong.append(f"{operation} never answered {wanted}")
    return wrong
