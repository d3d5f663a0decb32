"""What each generated client is held to: one walk through the live service, with calls that are typed."""

from __future__ import annotations

import os
from typing import Protocol, TypeVar

BASE_URL = os.environ["AGENTROUTER_BASE_URL"]
API_KEY = os.environ["AGENTROUTER_API_KEY"]
NAME = "generated-client"
SECRET = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001"
ABSENT = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"

K = TypeVar("K")
R = TypeVar("R")


class Refused(Exception):
    """What a method raises for a problem that the document describes."""

    def __init__(self, status: int, code: str, fields: list[str]) -> None:
        super().__init__(f"{status} {code} {fields}")
        self.status, self.code, self.fields = status, code, fields


class Calls(Protocol[K, R]):
    """The same calls with any of the generated clients, and how to read their answers."""

    def register(self, name: str, secret: str) -> K: ...

    def get(self, id: str) -> K: ...

    def list(self) -> list[K]: ...

    def revoke(self, id: str) -> R: ...

    def metadata(self, key: K) -> tuple[str, str, str, str]:
        """Return the id, the name, the state and the suffix."""
        ...

    def receipt_state(self, receipt: R) -> str: ...


def walk(calls: Calls[K, R]) -> None:
    """Register a key, read it, find it in the list and revoke it; then two refusals."""
    key = calls.register(NAME, SECRET)
    id, *rest = calls.metadata(key)
    assert rest == [NAME, "active", "0001"], rest
    assert calls.get(id) == key
    assert [found for found in calls.list() if calls.metadata(found)[0] == id] == [key]

    assert calls.receipt_state(calls.revoke(id)) == "complete"
    assert calls.metadata(calls.get(id))[2] == "revoked"

    try:
        calls.get(ABSENT)
    except Refused as refused:
        assert (refused.status, refused.code) == (404, "not_found"), refused
    else:
        raise AssertionError("nothing was refused")
    try:
        calls.register(NAME, "sk-...0001")
    except Refused as refused:
        assert (refused.status, refused.code, refused.fields) == (400, "invalid_argument", ["secret"]), refused
    else:
        raise AssertionError("nothing was refused")
