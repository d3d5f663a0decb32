"""The service that is fuzzed: started on free ports, filled with what a project has after a while, and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

CUSTOMER, PROJECT, SOLO = "acme", "chat", "solo"
OWNER, MEMBER = "alice", "bob"
PENDING = 3  # the version of the keys that Server.versioned makes
OTHERS = {"carol": "owner", "dave": "member", "erin": "member", "frank": "member", "grace": "member"}


class Server:
    """`aikeysd serve`, since `dev` takes no rate limits. It logs everything that it can."""

    def __init__(self, program: Path, folder: Path) -> None:
        folder.mkdir()
        self.program = program
        self.database = folder / "aikeys.db"
        self.log = folder / "aikeysd.log"
        argv = [program, "serve", *self.where(), "--sealer", f"local:{folder / 'keyset.json'}"]
        for listener in ("", "dataplane-", "ops-"):
            argv += [f"--{listener}listen", "127.0.0.1:0"]
        argv += ["--custom-providers", "owner"]
        argv += ["--rate-limit", "0", "--failed-auth-limit", "0", "--log-level", "debug", "--log-format", "json"]
        with self.log.open("w") as log:
            # Tests of keys end at once, as unreachable: no secret leaves this machine.
            environ = {**os.environ, "AIKEYS_VERIFY": "control_plane", "HTTPS_PROXY": "http://127.0.0.1:9"}
            self.process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log, env=environ)
        self.streams: list[Stream] = []
        listening = self.await_ready()
        self.api, self.dataplane = listening["api"], listening["dataplane"]

    def where(self) -> list[str]:
        return ["--database-url", f"sqlite:{self.database}"]

    def await_ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            entries = [
                json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")
            ]
            told = {entry["msg"]: entry for entry in entries}
            if "listening" in told and "ready" in told:
                return told["listening"]
            time.sleep(0.05)
        self.kill()
        raise SystemExit(f"aikeysd did not become ready:\n{self.log.read_text()}")

    def stop(self) -> None:
        """Ends the service, which must still be there, and end well."""
        for stream in self.streams:
            stream.close()
        if self.process.poll() is not None:
            raise SystemExit(f"aikeysd ended by itself, with {self.process.returncode}")
        self.process.terminate()
        if self.process.wait(timeout=30) != 0:
            raise SystemExit(f"aikeysd ended with {self.process.returncode}")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def admin(self, *argv: str) -> str:
        done = subprocess.run([self.program, "admin", *argv, *self.where()], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"aikeysd admin {' '.join(argv)}: {done.stderr}")
        return done.stdout.strip()

    def member(self, user: str, role: str, project: str = PROJECT) -> None:
        self.admin("member", "set", "--customer", CUSTOMER, "--project", project, "--user", user, "--role", role)

    def token(self, user: str) -> str:
        return self.admin("token", "create", "--customer", CUSTOMER, "--project", PROJECT, "--user", user)

    def gather(self) -> None:
        """Makes everybody a member again, whom an earlier run may have removed."""
        for user, role in {OWNER: "owner", MEMBER: "member", **OTHERS}.items():
            self.member(user, role)
        self.member(OWNER, "owner", SOLO)

    def seed(self, catalogue: Path, canary: str) -> dict[str, Any]:
        """Fills the project: members, keys of every provider, some used, refused or revoked, a policy, a trail."""
        self.gather()
        owner, member = self.token(OWNER), self.token(MEMBER)
        dataplane = self.admin("dataplane", "create", "--name", "fuzz", "--customer", CUSTOMER)
        base = f"{self.api}/v1/customers/{CUSTOMER}/projects/{PROJECT}"
        keys = []
        for provider in yaml.safe_load(catalogue.read_text())["providers"]:
            body = {"provider": provider["slug"], "secret": provider["example"].replace("EXAMPLE", canary, 1)}
            for token, name, own in ((owner, "first", False), (owner, "second", False), (member, "own", True)):
                answer = call("POST", f"{base}/aikeys", token, body | {"name": name, "user_scope": own})
                keys.append(answer["key"]["id"])
        for key in keys[1::9]:
            call("DELETE", f"{base}/aikeys/{key}", owner)
        policy = {"user_keys_by_provider": {"anthropic": "require"}, "on_bad_key": "next_key", "on_limited": "next_key"}
        call("PUT", f"{base}/policy", owner, policy)
        used = {"key_id": keys[0], "used_ms_ago": 1200}
        refused = {"key_id": keys[3], "failed_ms_ago": 340, "failure_status": 401}
        call("POST", f"{self.dataplane}/v1/reports", dataplane, {"keys": [used, refused]})
        return {
            "canary": canary,
            "catalogue": str(catalogue),
            "keys": keys,
            "user": OWNER,
            "members": list(OTHERS),
            "kept": [OWNER, MEMBER],
            "versioned": {},
            "pending": PENDING,
            "credentials": [owner, member],
            "tokens": [dataplane],
            "session": "",
            "positions": ["1:1:", "0:1000000:", "1:9:3,5"],
        }

    def versioned(self, canary: str, token: str, own: bool) -> dict[str, str]:
        """A key for each operation that takes a version that waits or can serve again: 1 is retiring, 2 serves, 3 is pending."""
        base = f"{self.api}/v1/customers/{CUSTOMER}/projects/{PROJECT}/aikeys"
        keys = {}
        for operation in ("rollbackKey", "activateKeyVersion", "destroyKeyVersion"):
            body = {"provider": "openai", "name": f"for {operation}", "user_scope": own}
            key = call("POST", base, token, body | {"secret": f"sk-{canary}-{operation}-1"})["key"]["id"]
            for version, activate in ((2, "now"), (PENDING, "manual")):
                rotation = {"secret": f"sk-{canary}-{operation}-{version}", "activate": activate, "overlap": "720h"}
                call("POST", f"{base}/{key}/rotate", token, rotation)
            keys[operation] = key
        return keys

    def stream(self, token: str) -> Stream:
        """A data plane's stream that lasts, so that there is something to acknowledge to."""
        self.streams.append(Stream(f"{self.dataplane}/v1", token))
        return self.streams[-1]


class Stream:
    """Follows the events, and acknowledges them as a data plane does."""

    def __init__(self, base: str, token: str) -> None:
        self.base, self.token = base, token
        request = urllib.request.Request(f"{base}/events", headers={"Authorization": f"Bearer {token}"})
        self.response = urllib.request.urlopen(request, timeout=15)
        self.session = next(m["session_id"] for m in self.messages() if m["type"] == "hello")
        self.closed = False
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def messages(self) -> Any:
        position = ""
        for line in self.response:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "id":
                position = value
            elif field == "data":
                yield json.loads(value) | {"position": position}

    def follow(self) -> None:
        acknowledged = 0.0
        try:
            for message in self.messages():
                if self.closed:
                    return
                if message["type"] == "heartbeat" and time.monotonic() - acknowledged > 2:
                    body = {"session_id": self.session, "position": message["position"]}
                    call("POST", f"{self.base}/acknowledgements", self.token, body)
                    acknowledged = time.monotonic()
        except (OSError, ValueError):
            return  # the stream has ended: the next acknowledgement of the fuzzer is a 404, and the verdict tells

    def close(self) -> None:
        self.closed = True
        self.thread.join(timeout=5)
        self.response.close()


def call(method: str, url: str, token: str, body: Any = None) -> Any:
    """A request that must succeed."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} | ({"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=15) as response:
        content = response.read()
    return json.loads(content) if content else None
