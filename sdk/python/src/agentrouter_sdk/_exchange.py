"""What the sync and async clients share: the headers of requests, the meaning of answers, and the retries."""

from __future__ import annotations

import json
import random
from typing import Any, Dict, Mapping, Optional, TypeVar, Union

import httpx
from pydantic import ValidationError

from ._config import USER_AGENT, Config
from ._model import Model
from ._operation import Call
from ._secret import REDACTED, Secret
from .errors import (
    AgentRouterError,
    APIConnectionError,
    APIError,
    APITimeoutError,
    UnexpectedResponseError,
    class_of,
    code_of_status,
)
from .models import (
    ListEventsResponse,
    ListFetchesResponse,
    ListMembersResponse,
    ListProjectsResponse,
    ListResponse,
    ListTokensResponse,
    ListUsageResponse,
    Problem,
)

T = TypeVar("T", bound=Model)
Listed = TypeVar(
    "Listed",
    ListResponse,
    ListMembersResponse,
    ListProjectsResponse,
    ListTokensResponse,
    ListUsageResponse,
    ListEventsResponse,
    ListFetchesResponse,
)

RETRIED_STATUS = frozenset((429, 502, 503, 504))
LONGEST_RETRY_AFTER = 30
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 4.0

# A shorter text is not a key, and occurs in any text.
SHORTEST_SCRUBBED = 8


def headers_of(config: Config, key: Secret[str], call: Call[Any]) -> Dict[str, str]:
    """Return the headers of every attempt of a call."""
    own = {
        "Authorization": "Bearer " + key.reveal(),
        "Accept": "application/json, application/problem+json",
        "User-Agent": USER_AGENT,
        **call.headers,
    }
    taken = {name.lower() for name in own}
    headers = {name: value for name, value in config.headers.items() if name.lower() not in taken}
    headers.update(own)
    if call.body is not None:
        headers["Content-Type"] = "application/json"
    return headers


def timeout_of(config: Config, call: Call[Any]) -> float:
    """Return how long an attempt may take, including the time for which the service may hold its answer."""
    return (config.timeout if call.timeout is None else call.timeout) + call.hold


def read(key: Secret[str], call: Call[T], response: httpx.Response, body: bytes) -> Union[T, AgentRouterError]:
    """Return the result or the error of an answer. It does not raise the error, so that its traceback has no frame."""
    status = response.status_code
    if status >= 400:
        return _problem(key, call, response, body)
    message = f"{status} is no answer of the API; is the base URL right?"
    if 200 <= status < 300:
        try:
            return call.operation.answer.model_validate_json(body)
        except ValidationError as invalid:
            first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "body"
        message = f"{status} with an answer that is not of the API: {where}: {_scrubbed(key, call, first['msg'])}"
    return UnexpectedResponseError(message, status, response.headers.get("X-Request-Id", ""))


def _problem(key: Secret[str], call: Call[Any], response: httpx.Response, body: bytes) -> APIError:
    status = response.status_code
    retry_after = _retry_after(response.headers)
    try:
        # The service never repeats what it was sent, but a proxy might.
        problem = Problem.model_validate_json(_scrubbed(key, call, body.decode("utf-8", "replace")))
    except ValidationError:
        code, request_id = code_of_status(status), response.headers.get("X-Request-Id", "")
        title = response.reason_phrase or "an error without a problem document"
        return class_of(code, status)(status, code, title=title, request_id=request_id, retry_after=retry_after)
    return class_of(problem.code, status)(
        status=status,
        code=problem.code,
        type=problem.type,
        title=problem.title,
        detail=problem.detail,
        request_id=problem.request_id,
        errors=problem.errors,
        retry_after=retry_after,
        extra=problem.model_extra,
    )


def connection_error(key: Secret[str], call: Call[Any], cause: Exception, timeout: float) -> APIConnectionError:
    """Return the error for an exchange that failed. It leaves out the cause, which holds the request."""
    name = f"{call.operation.method} {call.operation.path}"
    if isinstance(cause, httpx.TimeoutException):
        return APITimeoutError(f"{name}: no answer within {timeout:g} s ({type(cause).__name__})")
    text = _scrubbed(key, call, str(cause))
    return APIConnectionError(f"{name}: {type(cause).__name__}" + (f": {text}" if text else ""))


def pause_before_retry(config: Config, error: AgentRouterError, attempt: int) -> Optional[float]:
    """Return how long to wait before the retry after attempt 0, 1, …, or None if there is none."""
    if attempt >= config.max_retries:
        return None
    if isinstance(error, APIError):
        if error.status not in RETRIED_STATUS:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= LONGEST_RETRY_AFTER else None
    elif not isinstance(error, APIConnectionError):
        return None
    ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 10))
    return random.uniform(0, ceiling)  # noqa: S311 - it spreads load and guards nothing


def next_token(last: Optional[str], following: Optional[str]) -> Optional[str]:
    """Return the token of the page to ask for; None after the last one."""
    if following and following == last:
        raise UnexpectedResponseError("the list repeats a page; its next_page_token does not move on")
    return following or None


def as_last_page(listed: Listed) -> Listed:
    """Return a list without its next_page_token: no page follows."""
    listed.next_page_token = None
    listed.model_fields_set.discard("next_page_token")  # So that it prints like an answer without a token.
    return listed


def _retry_after(headers: Mapping[str, str]) -> Optional[int]:
    text = headers.get("Retry-After", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _scrubbed(key: Secret[str], call: Call[Any], text: str) -> str:
    for secret in (key, *call.secrets):
        value = secret.reveal() if secret else ""
        if len(value) < SHORTEST_SCRUBBED:
            continue
        for form in (value, json.dumps(value)[1:-1]):
            text = text.replace(form, REDACTED)
    return text
