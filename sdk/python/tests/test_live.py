"""Calls every method of the contract on the service itself."""

from __future__ import annotations

from typing import Any, Dict

import anyio
import pytest

from agentrouter_sdk import (
    AlreadyExistsError,
    AsyncClient,
    Client,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)

SECRET = "sk-test-0123456789abcdef0123456789abcdef"


@pytest.fixture(name="owner")
def _owner(live: Dict[str, str]) -> Dict[str, Any]:
    return {"base_url": live["AGENTROUTER_BASE_URL"], "api_key": live["AGENTROUTER_API_KEY"]}


@pytest.fixture(name="member")
def _member(live: Dict[str, str]) -> Dict[str, Any]:
    return {"base_url": live["AGENTROUTER_BASE_URL"], "api_key": live["AGENTROUTER_MEMBER_API_KEY"]}


def test_a_key_lives_and_dies(owner: Dict[str, Any]) -> None:
    with Client(**owner) as client:
        me = client.whoami()
        key = client.aikeys.register(me.customer_id, me.project_id, "openai", "sync", SECRET, False).key
        assert (key.state, key.display_suffix, key.created_by) == ("active", "cdef", me.user_id)
        assert client.aikeys.get("", "", key.id).key == key
        assert key in client.aikeys.list("", "", provider="openai", state="active").keys
        assert client.aikeys.resolve("", "", "openai").key == key
        with pytest.raises(AlreadyExistsError):
            client.aikeys.register("", "", "openai", "sync", SECRET, False)
        receipt = client.aikeys.revoke("", "", key.id, wait=5).receipt
        assert receipt.revoked_by == me.user_id
        assert client.aikeys.get("", "", key.id).key.state == "revoked"
        types = {event.type for event in client.events.iterate("", "", page_size=2)}
        assert {"key.registered", "key.revoked"} <= types
        assert client.events.list("", "", page_size=1).next_page_token


def test_the_same_idempotency_key_makes_one_key(owner: Dict[str, Any]) -> None:
    with Client(**owner) as client:
        first, second = (
            client.aikeys.register("", "", "groq", "once", SECRET, False, idempotency_key="once-1") for _ in range(2)
        )
        assert first.key.id == second.key.id


def test_pages_give_what_the_whole_list_does(owner: Dict[str, Any]) -> None:
    with Client(**owner) as client:
        for number in range(5):
            client.aikeys.register("", "", "mistral", f"page-{number}", SECRET, False)
        whole = client.aikeys.list("", "", provider="mistral").keys
        assert len(whole) == 5
        assert list(client.aikeys.iterate("", "", provider="mistral", page_size=2)) == whole
        members = client.members.list("", "").members
        assert list(client.members.iterate("", "", page_size=1)) == members


def test_members_policy_and_providers(owner: Dict[str, Any]) -> None:
    with Client(**owner) as client:
        assert client.members.set("", "", "carol", role="member").member.role == "member"
        client.members.remove("", "", "carol")
        with pytest.raises(NotFoundError):
            client.members.remove("", "", "carol")
        with pytest.raises(FailedPreconditionError):
            client.members.remove("", "", client.whoami().user_id)
        policy = client.policy.set("", "", "allow", {"anthropic": "require"}, "next_key").policy
        assert policy == client.policy.get("", "").policy
        assert policy.user_keys_by_provider == {"anthropic": "require"}
        client.policy.set("", "")
        assert client.policy.get("", "").policy.on_bad_key == "fail"
        assert "openai" in {provider.slug for provider in client.providers.list().providers}


def test_refusals_have_their_classes(owner: Dict[str, Any], member: Dict[str, Any]) -> None:
    with Client(**member) as client, pytest.raises(PermissionDeniedError) as denied:
        client.aikeys.register("", "", "openai", "not mine", SECRET, False)
    assert denied.value.request_id
    with Client(**owner) as client:
        with pytest.raises(InvalidArgumentError) as invalid:
            client.aikeys.register("", "", "openai", " spaced", SECRET, False)
        assert [error.field for error in invalid.value.errors] == ["name"]
        with pytest.raises(PermissionDeniedError):
            client.aikeys.list("", "another")
    with Client(base_url=owner["base_url"], api_key="ak_wrong") as client, pytest.raises(UnauthenticatedError):
        client.whoami()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_async_client_does_the_same(member: Dict[str, Any], backend: str) -> None:
    async def main() -> None:
        async with AsyncClient(**member) as client:
            me = await client.whoami()
            key = (await client.aikeys.register("", "", "anthropic", backend, "sk-ant-" + SECRET, True)).key
            assert key.created_by == me.user_id
            assert (await client.aikeys.get("", "", key.id)).key == key
            active = client.aikeys.iterate("", "", provider="anthropic", state="active")
            assert [found async for found in active] == [key]
            assert (await client.aikeys.resolve("", "", "anthropic")).scope == "user"
            assert (await client.aikeys.revoke("", "", key.id, wait="500ms")).receipt.revoked_by == me.user_id
            assert [event async for event in client.events.iterate("", "")]
            assert [found.user_id async for found in client.members.iterate("", "")]
            assert (await client.policy.get("", "")).policy.user_keys
            assert (await client.providers.list()).providers
            with pytest.raises(PermissionDeniedError):
                await client.policy.set("", "", "forbid")
            with pytest.raises(PermissionDeniedError):
                await client.members.set("", "", "dave", "member")
            with pytest.raises(PermissionDeniedError):
                await client.members.remove("", "", "dave")

    anyio.run(main, backend=backend)
