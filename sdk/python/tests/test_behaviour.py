"""What the vectors do not say: time, tasks, threads, pages, and how results print."""

from __future__ import annotations

import inspect
import json
import pickle
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, List, Set

import anyio
import httpx
import pytest
from calling import Outcome, call_async, call_sync
from player import KEY, Answer, Player, Seen, always, playing, problem

from agentrouter_sdk import (
    APIConnectionError,
    APITimeoutError,
    ArgumentError,
    AsyncClient,
    Client,
    ConfigurationError,
    NotFoundError,
    RawResponse,
    UnavailableError,
    UnexpectedResponseError,
    _exchange,
)
from agentrouter_sdk._config import configure
from agentrouter_sdk._operation import wait_text
from agentrouter_sdk.models import GetResponse

Caller = Callable[[Dict[str, Any], str, Dict[str, Any]], Outcome]
both = pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])
GET = {"customer_id": "", "project_id": "", "id": KEY["id"]}


def settings(player: Player, **more: Any) -> Dict[str, Any]:
    return {"base_url": player.url, "api_key": "ak_test_key", **more}


def test_register_takes_the_published_arguments_in_their_order() -> None:
    for client in (Client, AsyncClient):
        made = client(base_url="http://127.0.0.1:1", api_key="ak_test_key")
        parameters = inspect.signature(made.aikeys.register).parameters.values()
        by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert by_position == ["customer_id", "project_id", "provider", "name", "secret", "user_scope"]


def test_sync_and_async_have_the_same_methods() -> None:
    clients = [c(base_url="http://127.0.0.1:1", api_key="ak_test_key") for c in (Client, AsyncClient)]
    surfaces = []
    for client in clients:
        surface = {}
        for part in ("aikeys", "policy", "events", "fetches", "usage", "members", "providers"):
            for name, method in inspect.getmembers(getattr(client, part), inspect.ismethod):
                surface[f"{part}.{name}"] = list(inspect.signature(method).parameters)
        surfaces.append(surface)
    assert surfaces[0] == surfaces[1]


@both
def test_an_attempt_ends_with_its_timeout(call: Caller) -> None:
    released = threading.Event()

    def slow(number: int, seen: Seen) -> Answer:
        released.wait(20)
        return {"close": True}

    with playing(slow) as player:
        started = time.monotonic()
        error = call(settings(player, timeout=0.2, max_retries=0), "aikeys.get", GET).error
        released.set()
    assert isinstance(error, APITimeoutError)
    assert "0.2 s" in str(error)
    assert time.monotonic() - started < 10


@both
def test_the_timeout_of_one_call_goes_before_the_clients(call: Caller) -> None:
    released = threading.Event()

    def slow(number: int, seen: Seen) -> Answer:
        released.wait(20)
        return {"close": True}

    with playing(slow) as player:
        error = call(settings(player, max_retries=0), "aikeys.get", {**GET, "timeout": 0.1}).error
        released.set()
    assert isinstance(error, APITimeoutError)


@both
def test_a_timeout_leaves_room_for_the_wait(call: Caller) -> None:
    receipt = {
        "state": "complete",
        "revoked_at": KEY["created_at"],
        "revoked_by": "alice",
        "data_planes": 0,
        "acknowledged": 0,
    }

    def holds(number: int, seen: Seen) -> Answer:
        assert seen.query == {"wait": "30s"}
        time.sleep(0.5)  # As the service does: longer than the timeout, shorter than the wait.
        return {"status": 200, "body": {"receipt": receipt}}

    with playing(holds) as player:
        outcome = call(settings(player, timeout=0.2, max_retries=0), "aikeys.revoke", {**GET, "wait": 30})
    assert outcome.result.receipt.state == "complete"


def test_a_wait_may_be_a_number_or_a_duration() -> None:
    assert wait_text(2) == "2s"
    assert wait_text(0.5) == "500ms"
    assert wait_text(timedelta(seconds=1.25)) == "1250ms"
    assert wait_text("750ms") == "750ms"
    for wrong in (-1, 31, timedelta(minutes=1), float("nan")):
        with pytest.raises(ArgumentError):
            wait_text(wrong)


def test_pauses_double_up_to_four_seconds_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure("http://127.0.0.1:1", "ak_test_key", 1, 20, False)
    lost = APIConnectionError("gone")
    monkeypatch.setattr(random, "uniform", lambda low, high: (low, high))
    pauses: List[Any] = [_exchange.pause_before_retry(config, lost, attempt) for attempt in range(7)]
    assert pauses == [(0, 0.25), (0, 0.5), (0, 1.0), (0, 2.0), (0, 4.0), (0, 4.0), (0, 4.0)]
    assert _exchange.pause_before_retry(config, lost, 20) is None


def test_async_calls_run_at_the_same_time() -> None:
    together = threading.Barrier(20)

    def answer(number: int, seen: Seen) -> Answer:
        together.wait(30)  # Nobody is answered until all have asked.
        return {"status": 200, "body": {"key": {**KEY, "id": seen.path.rpartition("/")[2]}}}

    async def main(player: Player) -> Set[str]:
        found: Set[str] = set()

        async def get(id: str) -> None:
            found.add((await client.aikeys.get("", "", id)).key.id)

        async with AsyncClient(**settings(player)) as client, anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(get, f"byok_{number}")
        return found

    with playing(answer) as player:
        assert anyio.run(main, player) == {f"byok_{number}" for number in range(20)}
    assert len(player.seen) == 20


def test_threads_may_share_a_client() -> None:
    def answer(number: int, seen: Seen) -> Answer:
        return {"status": 200, "body": {"key": {**KEY, "id": seen.path.rpartition("/")[2]}}}

    ids = [f"byok_{number}" for number in range(200)]
    with playing(answer) as player, Client(**settings(player)) as client, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda each: client.aikeys.get("", "", each).key.id, ids)) == ids


def test_a_task_can_be_cancelled_in_the_middle_of_a_call_and_the_client_goes_on() -> None:
    asked, released = threading.Event(), threading.Event()

    def answer(number: int, seen: Seen) -> Answer:
        if number == 0:
            asked.set()
            released.wait(20)
        return {"status": 200, "body": {"key": KEY}}

    async def main(player: Player) -> str:
        async with AsyncClient(**settings(player)) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(client.aikeys.get, "", "", KEY["id"])
                await anyio.to_thread.run_sync(asked.wait)
                group.cancel_scope.cancel()
            released.set()
            return (await client.aikeys.get("", "", KEY["id"])).key.id

    with playing(answer) as player:
        assert anyio.run(main, player) == KEY["id"]
    assert len(player.seen) == 2


def test_a_task_can_be_cancelled_between_attempts() -> None:
    async def main(player: Player) -> bool:
        async with AsyncClient(**settings(player)) as client:
            with anyio.move_on_after(0.3) as scope:
                await client.aikeys.get("", "", KEY["id"])
            return scope.cancelled_caught

    with playing(always(503, problem(503, "unavailable"), {"retry-after": "20"})) as player:
        assert anyio.run(main, player)
    assert len(player.seen) == 1


def test_pages_are_asked_for_when_they_are_needed() -> None:
    def answer(number: int, seen: Seen) -> Answer:
        return {"status": 200, "body": {"keys": [KEY], "next_page_token": f"t{number}"}}

    with playing(answer) as player, Client(**settings(player)) as client:
        keys = client.aikeys.iterate("", "", state="active", page_size=1)
        assert len(player.seen) == 0
        next(keys)
        assert len(player.seen) == 1
        next(keys)
        assert [seen.query.get("page_token") for seen in player.seen] == [None, "t0"]


@both
def test_a_list_that_does_not_move_on_is_an_error_and_no_endless_loop(call: Caller) -> None:
    with playing(always(200, {"keys": [KEY], "next_page_token": "same"})) as player:
        outcome = call(settings(player), "aikeys.iterate", {"customer_id": "", "project_id": ""})
    assert isinstance(outcome.error, UnexpectedResponseError)
    assert len(outcome.items) == 2


def test_a_result_prints_its_fields() -> None:
    answer = GetResponse.model_validate({"key": {**KEY, "region": "eu"}})
    assert str(answer) == (
        "GetResponse(key=Key(id='byok_01M83VVAHV8M2T5K7N9R4W1XYZ', customer_id='acme', project_id='chat', "
        "provider='openai', name='openai-prod', display_suffix='9f3c', user_scope=False, "
        "created_at=2026-11-23T09:30:00.123456Z, created_by='alice', state='active', region='eu'))"
    )
    assert answer.key.created_at == datetime(2026, 11, 23, 9, 30, 0, 123456, tzinfo=timezone.utc)
    assert answer.key.revoked_at is None
    assert json.loads(answer.model_dump_json(exclude_unset=True))["key"]["region"] == "eu"


@both
def test_an_error_says_what_happened_and_survives_a_process_boundary(call: Caller) -> None:
    document = {
        **problem(404, "not_found", "There is no such thing."),
        "errors": [{"field": "id", "message": "is odd"}],
    }
    with playing(always(404, document)) as player:
        error = call(settings(player), "aikeys.get", GET).error
    text = "404 not_found: There is no such thing. [id is odd] (request 01M83VVAHQQW2E4R6T8Y0A1S3D)"
    assert isinstance(error, NotFoundError)
    assert str(error) == text
    assert str(pickle.loads(pickle.dumps(error))) == text


def test_an_http_client_of_ones_own_is_used_and_stays_open() -> None:
    paths: List[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        assert request.headers["authorization"] == "Bearer ak_test_key"
        return httpx.Response(302, headers={"location": "/elsewhere"})

    with httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True) as http:
        with Client(base_url="https://aikeys.example.com/under", api_key="ak_test_key", http_client=http) as client:
            with pytest.raises(UnexpectedResponseError):
                client.whoami()
        assert not http.is_closed
    assert paths == ["/under/v1/whoami"]


@pytest.mark.parametrize("value", [None, 5, True])
def test_an_id_that_is_no_text_is_refused(value: Any) -> None:
    with Client(base_url="http://127.0.0.1:1", api_key="ak_test_key") as client, pytest.raises(TypeError, match="id"):
        client.aikeys.get("", "", value)


def test_a_timeout_that_cannot_be_is_refused() -> None:
    with Client(base_url="http://127.0.0.1:1", api_key="ak_test_key") as client, pytest.raises(ConfigurationError):
        client.whoami(timeout=-1)


@both
def test_register_takes_its_arguments_by_name(call: Caller) -> None:
    names = {"provider": "openai", "name": "openai-prod", "secret": "sk-example"}
    with playing(always(200, {"key": KEY})) as player:
        assert call(settings(player), "aikeys.register", {**names, "project_id": "chat"}).error is None
    (seen,) = player.seen
    assert seen.path == "/v1/customers/-/projects/chat/aikeys"
    assert json.loads(seen.body) == {**names, "user_scope": False}


def test_each_attempt_asks_for_an_api_key_that_changes() -> None:
    keys = iter(["ak_1", "ak_2", "ak_3", "ak_4"])

    async def next_key() -> str:
        return next(keys)

    async def main(url: str) -> None:
        async with AsyncClient(base_url=url, api_key=next_key, max_retries=1) as client:
            with pytest.raises(UnavailableError):
                await client.whoami()

    with playing(always(503, {}, {"Retry-After": "0"})) as player:
        with Client(base_url=player.url, api_key=lambda: next(keys), max_retries=1) as client:
            with pytest.raises(UnavailableError):
                client.whoami()
        anyio.run(main, player.url)
        assert [seen.headers["authorization"] for seen in player.seen] == [f"Bearer ak_{n}" for n in range(1, 5)]
        with Client(base_url=player.url, api_key=lambda: "ak_MARKED\n") as client:
            with pytest.raises(ConfigurationError) as caught:
                client.whoami()
    assert "MARKED" not in str(caught.value)
    assert len(player.seen) == 4


def test_with_options_applies_to_its_own_calls() -> None:
    responses: List[RawResponse] = []
    with playing(always(503, {"secret": "MARKED"}, {"Retry-After": "0", "X-Request-Id": "req-1"})) as player:
        with Client(**settings(player)) as client:
            other = client.with_options(
                max_retries=0, headers={"X-Tenant": "acme", "authorization": "mine"}, on_response=responses.append
            )
            with pytest.raises(UnavailableError):
                other.policy.get("", "")
            other.close()
            with pytest.raises(UnavailableError):
                client.with_options(timeout=5, max_retries=1).whoami()
            for wrong in ({"timeout": 0}, {"max_retries": -1}, {"headers": {"x a": "1"}}, {"headers": {"x": "a\r\nb"}}):
                with pytest.raises(ConfigurationError):
                    client.with_options(**wrong)
    assert [(seen.headers.get("x-tenant"), seen.headers["authorization"]) for seen in player.seen] == [
        ("acme", "Bearer ak_test_key"),
        (None, "Bearer ak_test_key"),
        (None, "Bearer ak_test_key"),
    ]
    (response,) = responses
    assert (response.status, response.request_id, json.loads(response.body)) == (503, "req-1", {"secret": "MARKED"})
    assert "MARKED" not in repr(response)


def test_attempts_are_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="agentrouter_sdk")
    with playing(always(200, {"key": KEY}, {"X-Request-Id": "req-1"})) as player, Client(**settings(player)) as client:
        client.aikeys.register("", "", "openai", "openai-prod", "sk-MARKED-SECRET")
    assert "(request req-1)" in caplog.text
    assert "MARKED" not in caplog.text
    assert "ak_test_key" not in caplog.text
