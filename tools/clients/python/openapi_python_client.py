"""A program of a team that uses openapi-python-client, with the client that it generates."""

from __future__ import annotations

from typing import TypeVar

from contract import API_KEY, BASE_URL, Refused, walk
from generated import AuthenticatedClient
from generated.api.ai_keys import get_key, list_keys, register_key, revoke_key
from generated.models import Key, Problem, Receipt, RegisterRequest

T = TypeVar("T")
client = AuthenticatedClient(base_url=BASE_URL, token=API_KEY, raise_on_unexpected_status=True)


def good(reply: T | Problem | None) -> T:
    """Return the answer that is no problem."""
    if isinstance(reply, Problem):
        raise Refused(reply.status, reply.code, [error.field for error in reply.errors or []])
    assert reply is not None
    return reply


class Calls:
    def register(self, name: str, secret: str) -> Key:
        body = RegisterRequest(provider="openai", name=name, secret=secret)
        return good(register_key.sync("-", "-", client=client, body=body)).key

    def get(self, id: str) -> Key:
        return good(get_key.sync("-", "-", id, client=client)).key

    def list(self) -> list[Key]:
        return good(list_keys.sync("-", "-", client=client)).keys

    def revoke(self, id: str) -> Receipt:
        return good(revoke_key.sync("-", "-", id, client=client, wait="5s")).receipt

    def metadata(self, key: Key) -> tuple[str, str, str, str]:
        return key.id, key.name, key.state, key.display_suffix

    def receipt_state(self, receipt: Receipt) -> str:
        return receipt.state


with client:
    walk(Calls())
