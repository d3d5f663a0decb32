"""Looks for two marked secrets, the provider's key and the API key, in everything that a program could print."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
import pprint
import traceback
from typing import Any, Callable, Dict, Iterator, List

import pytest
from calling import Outcome, call_async, call_sync
from player import Answer, Player, Seen, always, playing, problem

from agentrouter_sdk import AgentRouterError, AsyncClient, Client, errors
from agentrouter_sdk._config import configure
from agentrouter_sdk._operations import REGISTER_KEY
from agentrouter_sdk._secret import Secret

PROVIDER_KEY = 'sk-MARKED-provider-"key"-9f3c'
API_KEY = "ak_MARKED_api_key"

Caller = Callable[[Dict[str, Any], str, Dict[str, Any]], Outcome]
both = pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])


def arguments() -> Dict[str, Any]:
    return {
        "customer_id": "",
        "project_id": "",
        "provider": "openai",
        "name": "openai-prod",
        "secret": PROVIDER_KEY,
        "user_scope": False,
    }


def echoes(seen: Seen) -> str:
    """Say back everything that was sent, as a service must not."""
    return f"you sent {seen.headers['authorization']} and {json.loads(seen.body)['secret']}"


def _refused(number: int, seen: Seen) -> Answer:
    return {"status": 400, "body": problem(400, "invalid_argument", echoes(seen))}


def _fault(number: int, seen: Seen) -> Answer:
    return {"status": 500, "body_text": echoes(seen)}


def _off_contract(number: int, seen: Seen) -> Answer:
    return {"status": 201, "body": {"key": {"id": echoes(seen), "created_at": echoes(seen)}}}


def _no_json(number: int, seen: Seen) -> Answer:
    return {"status": 201, "body_text": echoes(seen)}


def _redirect(number: int, seen: Seen) -> Answer:
    return {"status": 302, "body_text": echoes(seen), "headers": {"location": "/?" + API_KEY}}


def _closed(number: int, seen: Seen) -> Answer:
    return {"close": True}


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert "MARKED" not in caplog.text


@both
@pytest.mark.parametrize("answer", [_refused, _fault, _off_contract, _no_json, _redirect, _closed])
def test_no_error_has_a_secret_in_it(call: Caller, answer: Callable[[int, Seen], Answer]) -> None:
    with playing(answer) as player:
        error = call(settings(player), "aikeys.register", arguments()).error
    assert isinstance(error, AgentRouterError)
    for text in texts_of(error):
        assert "MARKED" not in text


@both
def test_a_service_out_of_reach_shows_no_secret(call: Caller) -> None:
    with playing(always(200, {})) as player:
        gone = settings(player)
    error = call({**gone, "max_retries": 1}, "aikeys.register", arguments()).error
    assert isinstance(error, errors.APIConnectionError)
    for text in texts_of(error):
        assert "MARKED" not in text


def settings(player: Player) -> Dict[str, Any]:
    return {"base_url": player.url, "api_key": API_KEY, "max_retries": 0}


def texts_of(error: BaseException) -> List[str]:
    """Return what tools make of an error: they print it, its fields and causes, and the variables of its frames."""
    assert error.__cause__ is None
    assert error.__context__ is None
    texts = [str(error), repr(error), pprint.pformat(vars(error)), json.dumps(vars(error), default=repr)]
    texts += [repr(error.args), repr(pickle.loads(pickle.dumps(error)))]
    frames = error.__traceback__
    while frames is not None:
        if "agentrouter_sdk" in frames.tb_frame.f_code.co_filename:
            texts += [repr(value) for value in frames.tb_frame.f_locals.values()]
        frames = frames.tb_next
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    # The last frames are the package's. The test's own hold the secret.
    ours = [frame for frame in shown.stack if "agentrouter_sdk" in frame.filename]
    assert ours
    return texts + [str(frame.locals) for frame in ours]


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_no_client_shows_its_key(client: Any) -> None:
    made = client(base_url="http://127.0.0.1:1", api_key=API_KEY)
    transport = made._transport
    shown = [made, vars(made), transport, vars(transport), transport.config, vars(transport.config), transport._http]
    for thing in shown:
        for text in (str(thing), repr(thing), f"{thing}", pprint.pformat(thing), json.dumps(thing, default=repr)):
            assert "MARKED" not in text
    assert "MARKED" not in str(inspect.getmembers(made)) + str(inspect.getmembers(made.aikeys))
    with pytest.raises(TypeError):
        pickle.dumps(made)


def test_no_call_shows_its_secret() -> None:
    call = REGISTER_KEY.call(arguments())
    config = configure("http://127.0.0.1:1", API_KEY, 1, 0, False)
    for thing in (call, vars(call), config, vars(config), inspect.getmembers(call)):
        assert "MARKED" not in repr(thing)
        assert "MARKED" not in str(thing)
    assert call.body is not None
    assert b"MARKED" in call.body.reveal()


def test_a_secret_shows_in_no_way() -> None:
    secret = Secret(API_KEY)
    texts = [str(secret), repr(secret), f"{secret}", f"{secret:>40}", "%s" % secret, repr([secret])]  # noqa: UP031
    assert {"MARKED" in text for text in texts} == {False}
    assert secret.reveal() == API_KEY
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(secret)


@both
def test_a_key_that_cannot_be_sent_is_refused_without_it(call: Caller) -> None:
    with playing(always(200, {})) as player:
        wrong = {**arguments(), "idempotency_key": "MARKED key"}
        error = call(settings(player), "aikeys.register", wrong).error
    assert isinstance(error, errors.ArgumentError)
    assert "MARKED" not in str(error)
