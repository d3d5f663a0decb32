"""Starts aikeysd with data of its own, lets schemathesis loose on it, and judges the outcome. run.sh calls it.

Usage: fuzz.py ROOT WORK: the repository, and a folder for this run alone in which `aikeysd` lies.
"""

from __future__ import annotations

import os
import random
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

import selftest
from runs import BRIEF, Run, fuzz, reached
from server import Server

OWNER_ONLY = {
    "setPolicy", "setMember", "removeMember", "restoreMember", "getMemberImpact", "listFetches", "listProjectTokens", "revokeProjectToken", "findLeaks",
    "addCustomProvider", "removeCustomProvider",
}


def operations(document: dict[str, Any]) -> list[str]:
    methods = ("get", "put", "post", "delete", "patch")
    return [path[m]["operationId"] for path in document["paths"].values() for m in methods if m in path]


def told_in(file: Path, words: list[str]) -> int:
    content = file.read_bytes()
    return sum(content.count(word.encode()) for word in words)


class Fuzzing:
    """The whole of it: what was done, what is wrong, and what to say at the end."""

    def __init__(self, root: Path, work: Path, seed: int, examples: int) -> None:
        self.work, self.seed, self.examples = work, seed, examples
        self.public, self.private = root / "spec/aikeys.yaml", root / "spec/dataplane.yaml"
        self.catalogue = root / "spec/providers.yaml"
        self.summary: list[str] = []
        self.wrong: list[str] = []
        self.server = Server(work / "aikeysd", work / "server")
        self.facts: dict[str, Any] = {}

    def run(self) -> int:
        try:
            canary = f"CANARY{zlib.crc32(str(self.seed).encode()):08x}"
            self.facts = self.server.seed(self.catalogue, canary) | {"seed": self.seed}
            self.drill()
            self.runs()
            self.server.stop()
            self.secrecy()
        finally:
            self.server.kill()
        print("\n## summary", *self.summary, sep="\n")
        for one in self.wrong:
            print(f"  {one}")
        return 1 if self.wrong else 0

    def note(self, name: str, started: float, what: str, wrong: list[str]) -> None:
        outcome = "FAILED" if wrong else "ok"
        self.summary.append(f"{outcome:7} {time.monotonic() - started:4.0f}s  {name}: {what}")
        self.wrong += [f"{name}: {one}" for one in wrong]

    def drill(self) -> None:
        """Has the same machinery judge what is wrong, and complains of what it does not notice."""
        started = time.monotonic()
        print("## self-test: is it noticed when something is wrong?", flush=True)
        document = self.work / "wrong.yaml"
        document.write_text(yaml.safe_dump(selftest.wrong(yaml.safe_load(self.public.read_text()))))
        missed = self.unnoticed("a wrong document", document, self.server.api, selftest.WRONG)
        with selftest.YesServer() as url:
            missed += self.unnoticed("a service that says yes", self.public, url, selftest.YES)
        if not reached({"whoAmI": Counter({401: 9, 404: 1})}, ["whoAmI"], set()):
            missed.append("not noticed: an operation that was never reached")
        if not reached({"whoAmI": Counter({401: 9, 200: 1})}, ["whoAmI"], None):
            missed.append("not noticed: an operation that lets everybody in")
        number = len(selftest.WRONG) + len(selftest.YES) + 2
        what = f"{number - len(missed)} of {number} faults noticed"
        print(f"  {what}")
        self.note("self-test", started, what, missed)

    def unnoticed(self, name: str, document: Path, url: str, faults: set[tuple[str, str]]) -> list[str]:
        owner, only = self.facts["credentials"][0], selftest.OPERATIONS
        outcome = fuzz(Run(name, document, url, "bearer", owner, BRIEF, only=only, quiet=True), self.facts, self.work)
        noticed = {(kind, operation.split(" ", 1)[1]) for kind, operation in outcome.failures()}
        return [f"not noticed: {kind} of {path}, in {name}" for kind, path in sorted(faults - noticed)]

    def runs(self) -> None:
        """The data plane comes last: its streams and their leases make receipts wait."""
        owner, member = self.facts["credentials"]
        api, few = self.server.api, max(self.examples // 4, 1)
        self.facts["versioned"] = self.server.versioned(self.facts["canary"], owner, own=False)
        self.step(Run("owner", self.public, api, "bearer", owner, examples=self.examples), set())
        self.server.gather()
        self.facts["versioned"] = self.server.versioned(self.facts["canary"], member, own=True)
        self.step(Run("member", self.public, api, "bearer", member, examples=few), OWNER_ONLY)
        self.step(Run("nobody", self.public, api, phases=BRIEF), None)
        self.server.gather()
        dataplane, token = self.server.dataplane, self.facts["tokens"][0]
        self.step(Run("nobody as data plane", self.private, dataplane, phases=BRIEF), None)
        self.facts["session"] = self.server.stream(token).session
        self.step(Run("data plane", self.private, dataplane, "dataplane", token, examples=self.examples), set())

    def step(self, run: Run, refused: set[str] | None) -> None:
        started = time.monotonic()
        print(f"\n## {run.name}: {run.document.name} at {run.url}", flush=True)
        outcome = fuzz(run, self.facts, self.work)
        expected = operations(yaml.safe_load(run.document.read_text()))
        for operation in expected:
            seen = outcome.statuses.get(operation, Counter())
            print(f"  {operation:14} " + "  ".join(f"{status}: {n}" for status, n in sorted(seen.items())))
        wrong = outcome.complaints(len(expected)) + reached(outcome.statuses, expected, refused)
        statuses = sorted({status for seen in outcome.statuses.values() for status in seen})
        answers = ", ".join(map(str, statuses))
        what = f"{outcome.requests()} requests to {len(expected)} operations, answered {answers}"
        self.note(run.name, started, what, wrong)

    def secrecy(self) -> None:
        """With everything said and done, no secret is in the log, in the database, or in the database's own log."""
        started = time.monotonic()
        secrets = [self.facts["canary"], *self.facts["credentials"], *self.facts["tokens"]]
        files = [self.server.log, *self.server.database.parent.glob("aikeys.db*")]
        found = {file.name: told_in(file, secrets) for file in files}
        wrong = [f"{n} secrets in {name}" for name, n in found.items() if n]
        # The search itself is checked. New rows may still be in the database's write-ahead log alone.
        if not told_in(self.server.log, ["registerKey"]):
            wrong.append("the log does not name registerKey, so it was not searched")
        if not any(told_in(file, ["byok_"]) for file in files[1:]):
            wrong.append("the database has no key id, so it was not searched")
        lines = len(self.server.log.read_text().splitlines())
        what = f"{len(secrets)} secrets sought in {lines} lines of log, and in the database"
        self.note("secrecy", started, what, wrong)


def main(argv: list[str]) -> int:
    given = os.environ.get("FUZZ_SEED", "1")
    seed = random.randrange(1 << 31) if given == "random" else int(given)
    examples = int(os.environ.get("FUZZ_EXAMPLES", "30"))
    print(f"FUZZ_SEED={seed} FUZZ_EXAMPLES={examples}", flush=True)
    return Fuzzing(Path(argv[1]), Path(argv[2]), seed, examples).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
