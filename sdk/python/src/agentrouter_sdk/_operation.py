"""The operations of the contract, and their calls."""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Dict, Generic, Mapping, Optional, Tuple, Type, TypeVar, Union
from urllib.parse import quote, urlencode

from ._config import checked_timeout
from ._model import Model
from ._secret import Secret
from .errors import ArgumentError

T = TypeVar("T", bound=Model)

_NULL = object()  # An argument that is sent as null.
_ETAG = re.compile(r"[ -~]{1,256}\Z")
_DEFAULTED = ("customer_id", "project_id")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}\Z")
_WAIT = re.compile(r"([0-9]{1,5})(ms|s)\Z")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call, which every attempt sends."""

    operation: Operation[T]
    target: str
    headers: Mapping[str, str]
    body: Optional[Secret[bytes]]
    secrets: Tuple[Secret[str], ...]
    timeout: Optional[float]
    hold: float = 0.0


@dataclass(frozen=True)
class Operation(Generic[T]):
    """An operation of the contract. The table of operations is generated."""

    id: str
    method: str
    path: str
    answer: Type[T]
    query: Tuple[str, ...] = ()
    body: Tuple[str, ...] = ()
    idempotent_by_key: bool = False
    _parts: Tuple[Tuple[str, str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = re.findall(r"([^{]+)(?:\{(\w+)\})?", self.path)
        object.__setattr__(self, "_parts", tuple((text.lstrip("}"), name) for text, name in found))

    def call(
        self,
        arguments: Mapping[str, Any],
        *,
        timeout: Optional[float] = None,
        idempotency_key: Optional[str] = None,
        if_match: Optional[str] = None,
    ) -> Call[T]:
        """Return a call with arguments by their names in the contract. None means that an argument is not given."""
        headers: Dict[str, str] = {}
        if self.idempotent_by_key:
            headers["Idempotency-Key"] = _checked_idempotency_key(idempotency_key)
        if if_match is not None:
            headers["If-Match"] = _checked_etag(if_match)
        secrets = [arguments.get("secret"), *arguments.get("values", ())]
        return Call(
            operation=self,
            target=self._target(arguments),
            headers=headers,
            body=self._body(arguments),
            secrets=tuple(Secret(secret) for secret in secrets if isinstance(secret, str)),
            timeout=None if timeout is None else checked_timeout(timeout),
            hold=seconds_of(arguments.get("wait")),
        )

    def _target(self, arguments: Mapping[str, Any]) -> str:
        target = "".join(text + (_segment(name, arguments[name]) if name else "") for text, name in self._parts)
        query = {name: arguments[name] for name in self.query if arguments.get(name) is not None}
        return target + "?" + urlencode(query) if query else target

    def _body(self, arguments: Mapping[str, Any]) -> Optional[Secret[bytes]]:
        if not self.body:
            return None
        given = {name: arguments[name] for name in self.body if arguments.get(name) is not None}
        given = {name: None if value is _NULL else value for name, value in given.items()}
        return Secret(json.dumps(given, separators=(",", ":")).encode())


def _segment(name: str, value: Any) -> str:
    if name == "version" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str")
    if not value and name in _DEFAULTED:
        return "-"
    if value in ("", ".", ".."):
        raise ArgumentError(f"{name} must be an id, and not empty or a dot or two")
    return quote(value, safe="", errors="surrogatepass")


def _checked_idempotency_key(key: Optional[str]) -> str:
    if key is None:
        return str(uuid.uuid4())
    if not _IDEMPOTENCY_KEY.match(key):
        raise ArgumentError("idempotency_key must be 1 to 255 visible ASCII characters without spaces")
    return key


def _checked_etag(etag: str) -> str:
    if not _ETAG.match(etag):
        raise ArgumentError("if_match must be a key's etag")
    return etag


class Unchanged(Enum):
    """The type of UNCHANGED: the default of arguments for which None is a change."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


def changed(value: Any) -> Any:
    """Return a value to send: None is sent as null, and UNCHANGED not at all."""
    if value is UNCHANGED:
        return None
    return _NULL if value is None else value


def changed_time(name: str, when: Union[str, datetime, None, Unchanged]) -> Any:
    """Write a time as time_text does; None is sent as null, and UNCHANGED not at all."""
    if when is UNCHANGED:
        return None
    return _NULL if when is None else time_text(name, when)


def overlap_text(overlap: Union[str, float, timedelta, None]) -> Optional[str]:
    """Write a time as the contract does, such as 15m or 0s. A number is in seconds, and rounded up."""
    if overlap is None or isinstance(overlap, str):
        return overlap
    seconds = overlap.total_seconds() if isinstance(overlap, timedelta) else overlap
    return f"{math.ceil(seconds)}s"


def wait_text(wait: Union[str, float, timedelta, None]) -> Optional[str]:
    """Write a time as the contract does, such as 500ms or 2s. A number is in seconds."""
    if wait is None or isinstance(wait, str):
        return wait
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    if not 0 <= seconds <= 30:
        raise ArgumentError("wait must be between 0 and 30 seconds")
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{round(seconds * 1000)}ms"


def time_text(name: str, when: Union[str, datetime, None]) -> Optional[str]:
    """Write a time as the contract does, such as 2026-11-23T09:00:00Z."""
    if when is None or isinstance(when, str):
        return when
    if when.tzinfo is None:
        raise ArgumentError(f"{name} must have a time zone")
    return when.isoformat().replace("+00:00", "Z")


def seconds_of(wait: Optional[str]) -> float:
    """Return how long the service may hold its answer; 0 for a text that it will refuse."""
    found = _WAIT.match(wait or "")
    if not found:
        return 0.0
    return int(found.group(1)) / (1000 if found.group(2) == "ms" else 1)
