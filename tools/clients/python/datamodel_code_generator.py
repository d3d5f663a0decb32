"""A program of a team that uses datamodel-code-generator for the models, and makes the calls itself."""

from __future__ import annotations

from typing import TypeVar

import httpx
from contract import API_KEY, BASE_URL, Refused, walk
from generated import (
    GetResponse,
    Key,
    ListResponse,
    Problem,
    ProviderSlug,
    Receipt,
    RegisterRequest,
    RegisterResponse,
    RevokeResponse,
    Secret,
)
from pydantic import BaseModel, SecretStr

M = TypeVar("M", bound=BaseModel)
KEYS = "/v1/customers/-/projects/-/aikeys"
client = httpx.Client(base_url=BASE_URL, headers={"Authorization": f"Bearer {API_KEY}"})


def good(model: type[M], reply: httpx.Response) -> M:
    """Return the answer that is no problem."""
    if reply.is_success:
        return model.model_validate_json(reply.content)
    problem = Problem.model_validate_json(reply.content)
    raise Refused(problem.status, problem.code, [error.field for error in problem.errors or []])


class Calls:
    def register(self, name: str, secret: str) -> Key:
        body = RegisterRequest(provider=ProviderSlug("openai"), name=name, secret=Secret(SecretStr(secret)))
        assert secret not in repr(body)
        # The model masks the secret in what it dumps, too.
        sent = {**body.model_dump(exclude_none=True), "secret": body.secret.root.get_secret_value()}
        return good(RegisterResponse, client.post(KEYS, json=sent)).key

    def get(self, id: str) -> Key:
        return good(GetResponse, client.get(f"{KEYS}/{id}")).key

    def list(self) -> list[Key]:
        return good(ListResponse, client.get(KEYS)).keys

    def revoke(self, id: str) -> Receipt:
        return good(RevokeResponse, client.delete(f"{KEYS}/{id}", params={"wait": "5s"})).receipt

    def metadata(self, key: Key) -> tuple[str, str, str, str]:
        return key.id, key.name, key.state.root, key.display_suffix

    def receipt_state(self, receipt: Receipt) -> str:
        return receipt.state


with client:
    walk(Calls())
