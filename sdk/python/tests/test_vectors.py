"""Plays the vectors that all SDKs are held to."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, Type

import pytest
from calling import Outcome, call_async, call_sync
from player import Player, Seen, playing

from agentrouter_sdk import (
    APIConnectionError,
    APIError,
    ArgumentError,
    UnexpectedResponseError,
    errors,
)

VECTORS: List[Dict[str, Any]] = json.loads(
    (Path(__file__).parent / "../../vectors/vectors.json").read_text(encoding="utf-8")
)

Caller = Callable[[Dict[str, Any], str, Dict[str, Any]], Outcome]


@pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])
@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: Dict[str, Any], call: Caller) -> None:
    exchanges = vector["exchanges"]

    def answer(number: int, seen: Seen) -> Dict[str, Any]:
        response: Dict[str, Any] = dict(exchanges[number]["response"]) if number < len(exchanges) else {"close": True}
        return response

    with playing(answer) as player:
        started = time.monotonic()
        settings = {"base_url": player.url + "/", "api_key": "ak_vector_key", **vector["options"]}
        # Python has a keyword of that name.
        arguments = {"from_" if name == "from" else name: value for name, value in vector["args"].items()}
        outcome = call(settings, vector["call"], arguments)
        elapsed = (time.monotonic() - started) * 1000
    check_requests(exchanges, player)
    if "error" in vector:
        check_error(vector["error"], outcome.error)
        assert dumped(outcome.items) == vector.get("partial", [])
    else:
        assert outcome.error is None
        check_result(vector, outcome)
    if "elapsed_ms" in vector:
        assert vector["elapsed_ms"].get("min", 0) <= elapsed <= vector["elapsed_ms"].get("max", 60_000)


def check_requests(exchanges: List[Dict[str, Any]], player: Player) -> None:
    assert len(player.seen) == len(exchanges)
    keys = set()
    for exchange, seen in zip(exchanges, player.seen):
        want = exchange["request"]
        assert (seen.method, seen.path, seen.query) == (want["method"], want["path"], want["query"])
        for name, value in want["headers"].items():
            if value == "$uuid":
                keys.add(str(uuid.UUID(seen.headers[name])))
            else:
                assert seen.headers[name] == value
        assert (json.loads(seen.body) if seen.body else None) == want["body"]
        assert seen.headers["user-agent"].startswith("agentrouter-python/")
    assert len(keys) <= 1


def check_error(want: Dict[str, Any], error: Any) -> None:
    kinds: Dict[str, Type[Any]] = {
        "api": APIError,
        "response": UnexpectedResponseError,
        "connection": APIConnectionError,
        "argument": ArgumentError,
    }
    assert isinstance(error, kinds[want["kind"]])
    for text in want["message_contains"]:
        assert text in str(error)
    for name in ("status", "code", "type", "title", "detail", "request_id", "retry_after"):
        if name in want:
            assert getattr(error, name) == want[name]
    if "errors" in want:
        assert dumped(error.errors) == want["errors"]
    if "class" in want:
        assert type(error) is errors.class_of(want["class"], 0)
    for name, value in want.get("unknown", {}).items():
        assert error.extra[name] == value


def check_result(vector: Dict[str, Any], outcome: Outcome) -> None:
    want = vector["result"]
    if isinstance(want, list):
        assert dumped(outcome.items) == want
        return
    got = dumped([outcome.result])[0]
    if "api_key" in got:  # it prints as asterisks
        assert got["api_key"] != want["api_key"]
        got["api_key"] = outcome.result.api_key.get_secret_value()
    unknown = vector.get("unknown", {})
    for path, value in unknown.items():
        assert at(outcome.result, path) == value
    if not unknown:
        assert got == want
    else:
        assert contains(got, want)


def at(thing: Any, path: str) -> Any:
    """Follow a path of attributes, such as key.region or events.0.type."""
    for step in path.split("."):
        if isinstance(thing, list):
            thing = thing[int(step)]
        elif isinstance(thing, dict):
            thing = thing[step]
        else:
            thing = getattr(thing, step)
    return thing


def contains(got: Any, want: Any) -> bool:
    if isinstance(want, dict):
        return isinstance(got, dict) and all(name in got and contains(got[name], want[name]) for name in want)
    if isinstance(want, list):
        return isinstance(got, list) and len(got) == len(want) and all(map(contains, got, want))
    return bool(got == want)


def dumped(models: List[Any]) -> List[Any]:
    return [model.model_dump(mode="json", exclude_unset=True) for model in models]
