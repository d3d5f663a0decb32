"""What schemathesis knows of the service beside its document.

Requests that are right by the document are made sensible here, so that they reach what lies behind validation: ids that
exist, credentials of providers in their shape, positions that were given out. Those that are wrong on purpose stay so.
Every secret that is sent holds CANARY. Own checks look for it in the answers, and for keys that come back to life.
The ledger has a line for each answer. runs.py reads it to check that every operation was reached.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import unicodedata
import zlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import schemathesis
import yaml
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation

FACTS: dict[str, Any] = json.loads(Path(os.environ["AIKEYS_FUZZ_FACTS"]).read_text())
CANARY: str = FACTS["canary"]
ULID = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")
LEDGER = Path(os.environ["AIKEYS_FUZZ_LEDGER"])

# A secret where the document has format: password; `fit` puts the provider's own shape in place of it.
schemathesis.openapi.format("password", st.integers(0, 9999).map(lambda n: f"{CANARY}-{n:04}-abcdefgh"))

# What earlier answers told.
keys: list[str] = list(FACTS["keys"])
providers: dict[str, str] = {}  # of the keys that the session registered
tokens: list[str] = ["01M7W0BTX000000000000000AK"]  # that the session made; its own would end it
servers: list[dict[str, Any]] = []  # paths of those that the session added and has not removed
pages: dict[str, dict[str, Any]] = {}
positions: list[str] = list(FACTS["positions"])
revoked: set[str] = set()
tested: set[str] = set()


@cache
def examples() -> dict[str, str]:
    """One secret of the right shape for each provider, with the canary in it."""
    catalogue = yaml.safe_load(Path(FACTS["catalogue"]).read_text())
    return {p["slug"]: p["example"].replace("EXAMPLE", CANARY, 1) for p in catalogue["providers"]}


def pick(case: Any, salt: str, among: int) -> int:
    """A number below `among` that is the same for the same request of the same seed. Ids differ from run to run."""
    request = f"{FACTS['seed']}{salt}{case.operation.label}{case.path_parameters}{case.query}{case.body}"
    return zlib.crc32(ULID.sub("", request).encode(errors="replace")) % among


def one_of(case: Any, salt: str, values: list[Any]) -> Any:
    return values[pick(case, salt, len(values))]


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Leaves out `default`, with which every status would be a documented one."""
    for item in raw_schema["paths"].values():
        for method in item.values():
            if isinstance(method, dict):
                method["responses"].pop("default", None)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    meta = case.meta
    if meta is None:
        return
    right = {location: not meta.is_negative_at(location) for location in ParameterLocation}
    if right[ParameterLocation.PATH] and case.path_parameters:
        case.path_parameters = fit_path(case, dict(case.path_parameters))
    if right[ParameterLocation.QUERY] and case.query:
        case.query = fit_query(case, dict(case.query))
    if right[ParameterLocation.HEADER] and "Last-Event-ID" in case.headers:
        case.headers["Last-Event-ID"] = positions[-1]
    if right[ParameterLocation.HEADER] and "If-Match" in case.headers:
        case.headers["If-Match"] = one_of(case, "etag", ["*"] * 5 + ['"1"', '"1", "2"', '"999"'])
    if right[ParameterLocation.HEADER] and operation_id(case) == "rotateKey" and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"rotation-{pick(case, 'idempotency', 1_000_000)}"
    if isinstance(case.body, dict):
        fit = FITS.get(operation_id(case)) if right[ParameterLocation.BODY] else mark
        if fit is not None:
            case.body = fit(case, dict(case.body))


def operation_id(case: Any) -> str:
    return case.operation.definition.raw["operationId"]


def fit_path(case: Any, path: dict[str, Any]) -> dict[str, Any]:
    """Seven of ten requests go to the project where there is something, one there by its dashes, one to the project
    with a single owner, and one to where the generator says."""
    where = pick(case, "where", 10)
    if "customer_id" in path and where < 9:
        own = [("acme", "chat")] * 7 + [("-", "-"), ("acme", "solo")]
        path["customer_id"], path["project_id"] = own[where]
    kept = FACTS["versioned"].values()  # for the operations that need them
    if "id" in path and (path["id"] in kept or path["id"] not in keys and pick(case, "id", 8) > 0):
        path["id"] = one_of(case, "key", keys[-40:])
        if pick(case, "bare", 4) == 0:
            path["id"] = path["id"].removeprefix("byok_")
    if operation_id(case) == "verifyKey" and pick(case, "tested", 4) > 0:  # a key may be tested once in ten seconds
        path["id"] = next((k for k in keys if k not in tested and k.removeprefix("byok_") not in revoked), path["id"])
        tested.add(path["id"])
    if "token_id" in path:
        path["token_id"] = one_of(case, "token", tokens[-20:])
    if "version" in path:
        path["version"] = 1 + pick(case, "version", 5)
    if operation_id(case) in FACTS["versioned"] and pick(case, "versioned", 4) > 0:
        path["customer_id"], path["project_id"], path["id"] = "acme", "chat", FACTS["versioned"][operation_id(case)]
        if "version" in path:
            path["version"] = FACTS["pending"]
    if "slug" in path and servers:
        path |= next((s for s in servers if s["slug"] == path["slug"]), one_of(case, "server", servers[-5:]))
    if "user_id" in path:
        # The callers stay members of the project that everything else needs: a removal suspends API keys, also of who is added again.
        if path.get("project_id") == "solo":
            path["user_id"] = FACTS["user"]
        elif path["user_id"] in (*FACTS["kept"], "-", ".", "..") or pick(case, "user", 4) > 0:
            path["user_id"] = one_of(case, "member", FACTS["members"])
    return path


def fit_query(case: Any, query: dict[str, Any]) -> dict[str, Any]:
    """The document can't say which providers and page tokens there are, that a wait is at most 30 s, nor that from is not
    after to. No wait lasts that long, since no data plane follows the stream by then."""
    if "provider" in query:
        query["provider"] = one_of(case, "provider", list(examples()))
    if "limited" in query:
        query["limited"] = one_of(case, "limited", keys[-40:])
    if "wait" in query:
        query["wait"] = one_of(case, "wait", ["0s", "1ms", "00250ms", "30000ms", "30s", "2s"])
    if "page_token" in query:
        query.pop("page_token")
        query |= pages.get(operation_id(case), {})
    if "previous_session_id" in query and query["previous_session_id"] == FACTS["session"]:
        query.pop("previous_session_id")
    if "from" in query and "to" in query:
        query["from"], query["to"] = sorted((query["from"], query["to"]), key=datetime.fromisoformat)
    if "max_stale_ms" in query:
        query["max_stale_ms"] = min(int(query["max_stale_ms"]), 50)
    return query


def fit_register(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Names go without Unicode's controls and spaces beyond ASCII, which the document's pattern has no way to write."""
    body["provider"] = one_of(case, "provider", list(examples()))
    body["secret"] = examples()[body["provider"]]
    unwelcome = ("Cc", "Cf", "Zl", "Zp")
    selectors = re.compile("[\u180b-\u180f\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e0fff]")
    name = selectors.sub("", body["name"])
    body["name"] = "".join(c for c in name if unicodedata.category(c) not in unwelcome).strip() or "n"
    if "verify" in body:  # a user may have so many tests, and verifyKey needs some
        body["verify"] = pick(case, "verify", 20) == 0
    return fit_restrictions(case, fit_expiry(case, body))


def fit_restrictions(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Own keys are restricted to no users, and operations are paths."""
    if body.get("restrict") is not None:
        body["restrict"] = one_of(case, "restrict", [{"models": ["gpt-4o", "o4-*"]}, {"operations": ["/chat/completions"]}])
    return body


def fit_expiry(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """A time is in the future."""
    if body.get("expires_at") is not None:
        body["expires_at"] = one_of(case, "expiry", ["2099-06-30T00:00:00Z", "9999-12-31T23:59:59.999999+01:00"])
    return body


def fit_update(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    if "name" in body:
        body["name"] = f"renamed {pick(case, 'name', 1000)}"
    return fit_restrictions(case, fit_expiry(case, body))


def fit_token(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    body["name"] = f"token {pick(case, 'name', 1000)}"
    if "projects" in body:
        body["projects"] = one_of(case, "projects", [["chat"], ["chat", "solo"], ["solo", "solo"]])
    return fit_expiry(case, body)


def fit_server(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """A URL is the plain base of an API, and a header goes with the one way of authentication that has it."""
    body["slug"] = f"x-{pick(case, 'slug', 1000)}"
    body["base_url"] = one_of(case, "base", ["https://llm.acme.example/v1", "http://10.20.0.7:11434"])
    body.pop("header", None)
    if body.get("auth_style") == "header":
        body["header"] = "X-Llm-Key"
    if "display_name" in body:
        body["display_name"] = "vLLM in Frankfurt"
    return body


def fit_rotate(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """A secret of the key's provider, and an overlap of at most 30 days."""
    key = "byok_" + case.path_parameters["id"].removeprefix("byok_")
    provider = providers.get(key, "openai")
    if key in FACTS["keys"]:  # three keys of each provider
        provider = list(examples())[FACTS["keys"].index(key) // 3]
    body["secret"] = examples()[provider].replace(CANARY, f"{CANARY}{pick(case, 'secret', 10000):04}", 1)
    body["activate"] = one_of(case, "activate", ["now"] * 12 + ["manual"] * 6 + ["verified"] * 2)
    if "overlap" in body:
        body["overlap"] = one_of(case, "overlap", ["0s", "15m", "15m", "720h"])
    return fit_expiry(case, body)


def fit_leaks(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """What matches is not revoked: everything else needs the keys."""
    if "source" in body:
        body["source"] = f"report {pick(case, 'source', 1000)}"
    if pick(case, "match", 2) == 0:
        body["values"][0], body["revoke"] = one_of(case, "value", list(examples().values())), False
    return body


def fit_policy(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    if "user_keys_by_provider" in body:
        exceptions = body["user_keys_by_provider"].values()
        body["user_keys_by_provider"] = dict(zip(examples(), exceptions, strict=False))
    return body


def fit_fetch(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """One of the three ways to ask, whatever of them came."""
    provider = one_of(case, "provider", list(examples()))
    limited = {"limited": keys[-len(body["limited"]) :]} if "limited" in body else {}
    way = pick(case, "way", 4)
    if way == 0:
        return {"key_id": one_of(case, "key", keys[-40:])}
    if way == 1:
        return {"credential": one_of(case, "who", FACTS["credentials"]), "provider": provider} | limited
    if way == 2:
        return {"credential": f"ak_{CANARY}", "provider": provider}
    user = {"user_id": one_of(case, "user", [FACTS["user"], *FACTS["members"]])} if "user_id" in body else {}
    return {"customer_id": "acme", "project_id": "chat", "provider": provider} | user | limited


def fit_report(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Each key once, a failure with its status or without one, and a caller with the time that it goes with. Most of the keys exist."""
    for n, report in enumerate(body["keys"]):
        report["key_id"] = keys[n] if n < len(keys) else f"byok_{n:026}"
        if ("failed_ms_ago" in report) != ("failure_status" in report):
            report |= {"failed_ms_ago": 1200, "failure_status": 403}
        if "failure_status" not in report:
            report.pop("failure_reason", None)
            report.pop("failed_version", None)
        for what in ("failed", "exposed"):
            caller = report.get(f"{what}_for")
            if caller and caller.get("user_id") in ("-", ".", ".."):
                caller["user_id"] = FACTS["user"]
            if f"{what}_ms_ago" not in report:
                report.pop(f"{what}_for", None)
    return body


def fit_usage(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """No more refusals than requests."""
    for count in body["counts"]:
        count["refusals"] = min(count["refusals"], count["requests"])
        if count.get("user_id") in ("-", ".", ".."):
            count["user_id"] = FACTS["user"]
    return body


def fit_acknowledgement(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    if pick(case, "session", 4) > 0:
        body["session_id"] = FACTS["session"]
    body["position"] = one_of(case, "position", positions[-20:])
    return body


def mark(case: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Puts the canary into a secret that is wrong, where there is something to put it into."""
    for field in ("secret", "credential"):
        value = body.get(field)
        if isinstance(value, str) and value != "" and CANARY not in value:
            body[field] = CANARY + value
        elif isinstance(value, list):
            body[field] = [*value, CANARY]
        elif isinstance(value, dict):
            body[field] = value | {CANARY: CANARY}
    return body


FITS = {
    "registerKey": fit_register,
    "updateKey": fit_update,
    "createToken": fit_token,
    "findLeaks": fit_leaks,
    "addCustomProvider": fit_server,
    "rotateKey": fit_rotate,
    "setPolicy": fit_policy,
    "fetchKey": fit_fetch,
    "reportKeys": fit_report,
    "reportUsage": fit_usage,
    "acknowledge": fit_acknowledgement,
}


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    operation = operation_id(case)
    if response.request.method.lower() != case.operation.method.lower():
        return  # a method that the path does not have
    with LEDGER.open("a") as ledger:
        ledger.write(json.dumps({"operation": operation, "status": response.status_code}) + "\n")
    if 200 <= response.status_code < 300:
        learn(operation, case, response)


def learn(operation: str, case: Any, response: Any) -> None:
    """Keeps what later requests can use. What is wrong with an answer is for the checks to say."""
    if operation == "revokeKey":
        revoked.add(case.path_parameters["id"].removeprefix("byok_"))
    elif operation == "streamEvents":
        positions.extend(line.removeprefix("id: ") for line in response.text.splitlines() if line.startswith("id: "))
    elif operation == "addCustomProvider":
        project = {name: case.path_parameters[name] for name in ("customer_id", "project_id")}
        servers.append(project | {"slug": response.json()["provider"]["slug"]})
    elif operation == "removeCustomProvider":
        servers[:] = [s for s in servers if s["slug"] != case.path_parameters["slug"]]
    elif operation == "createToken":
        tokens.append(response.json()["token"]["token_id"])
    elif operation == "registerKey" or operation.startswith("list"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            body = response.json()
            if operation == "registerKey":
                keys.append(body["key"]["id"])
                providers[keys[-1]] = body["key"]["provider"]
            elif token := body.get("next_page_token"):
                pages[operation] = dict(case.query) | {"page_token": token}


@schemathesis.check
def no_secret_shows(ctx: Any, response: Any, case: Any) -> None:
    """No answer holds a secret, but for the one member of the one answer that is there for it."""
    content = response.content
    if operation_id(case) == "fetchKey" and response.status_code == 200:
        body = response.json()
        body.pop("secret")
        content = json.dumps(body).encode()
    told = content + repr(response.headers).encode()
    for secret in (CANARY, *FACTS["credentials"], *FACTS["tokens"]):
        assert secret.encode() not in told, "the answer holds a secret that was sent"


@schemathesis.check
def revoked_for_good(ctx: Any, response: Any, case: Any) -> None:
    """A key that was revoked is there to be read, as revoked, and not to be changed."""
    if operation_id(case) in ("getKey", "updateKey", "rotateKey", "activateKeyVersion", "rollbackKey") and response.status_code == 200:
        key = response.json()["key"]
        if key["id"].removeprefix("byok_") in revoked:
            assert key["state"] == "revoked", "a revoked key is active again"
            assert "receipt" in key, "a revoked key came without its receipt"
            assert operation_id(case) == "getKey", "a revoked key was changed"


@schemathesis.check
def traceable(ctx: Any, response: Any, case: Any) -> None:
    """Every answer says which request it is to and, but for one, is not for caches; a problem says the same in its body."""
    assert "x-request-id" in response.headers, "no X-Request-Id"
    is_cacheable = operation_id(case) == "getSignInOptions" and response.status_code == 200
    caching = "public, max-age=60" if is_cacheable else "no-store"
    assert response.headers.get("cache-control") == [caching], f"no Cache-Control: {caching}"
    if response.status_code >= 400 and response.content:
        body = response.json()
        if response.status_code == 400:
            assert body.get("errors"), "a problem that names nothing at fault"
        assert body["status"] == response.status_code, "the problem's status is not the answer's"
        assert [body["request_id"]] == response.headers["x-request-id"], "the problem's request_id is not the answer's"
    if response.status_code in (429, 503):
        assert "retry-after" in response.headers, "no Retry-After"


@schemathesis.check
def stream_conformance(ctx: Any, response: Any, case: Any) -> None:
    """Each event of a stream is as the document says, and named after its type."""
    if operation_id(case) != "streamEvents" or response.status_code != 200:
        return
    events = [
        dict(line.split(": ", 1) for line in block.splitlines()) for block in response.text.split("\n\n") if block
    ]
    assert events and events[0]["event"] == "hello", "the stream does not begin with hello"
    for event in events:
        message = json.loads(event["data"])
        assert message["type"] == event["event"], "an event is not named after its type"
        components = case.operation.schema.raw_schema["components"]
        schema = {"$ref": "#/components/schemas/StreamMessage", "components": components}
        jsonschema_rs.Draft4Validator(schema).validate(message)
