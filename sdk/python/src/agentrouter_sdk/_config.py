"""The settings of a client, which are checked when it is created."""

from __future__ import annotations

import ipaddress
import math
import os
import platform
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional, Union
from urllib.parse import urlsplit

from ._secret import Secret
from ._version import __version__
from .errors import ConfigurationError

ENV_BASE_URL = "AGENTROUTER_BASE_URL"
ENV_API_KEY = "AGENTROUTER_API_KEY"

USER_AGENT = f"agentrouter-python/{__version__} ({platform.python_implementation()} {platform.python_version()})"

_VISIBLE = re.compile(r"[!-~]+\Z")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(r"[\t -~]*\Z")


@dataclass(frozen=True)
class RawResponse:
    """A raw response. It prints without headers and body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    request_id: str
    """Names the request in the service's log."""


@dataclass(frozen=True)
class Config:
    """A client's settings."""

    base_url: str
    api_key: Union[Secret[str], Callable[[], Any]]
    """The API key, or what returns one for each attempt; for an async client, an awaitable of one."""
    timeout: float
    max_retries: int
    headers: Mapping[str, str]
    on_response: Optional[Callable[[RawResponse], object]] = None


def configure(
    base_url: Optional[str],
    api_key: Union[str, Callable[[], Any], None],
    timeout: float,
    max_retries: int,
    allow_insecure_http: bool,
) -> Config:
    """Check the settings, and read missing ones from the environment."""
    key = api_key or os.environ.get(ENV_API_KEY, "")
    if not key:
        raise ConfigurationError(f"no API key: pass api_key, or set {ENV_API_KEY}")
    url = base_url or os.environ.get(ENV_BASE_URL, "")
    if not url:
        raise ConfigurationError(f"no base URL: pass base_url, or set {ENV_BASE_URL}")
    return Config(
        base_url=_checked_url(url, allow_insecure_http),
        api_key=key if callable(key) else checked_key(key),
        timeout=checked_timeout(timeout),
        max_retries=checked_retries(max_retries),
        headers={},
    )


def checked_key(key: object) -> Secret[str]:
    """Return an API key unchanged, if it is well-formed."""
    if not isinstance(key, str) or not _VISIBLE.match(key):
        raise ConfigurationError("the API key is malformed: it must be visible ASCII, without spaces and line ends")
    return Secret(key)


def checked_retries(max_retries: int) -> int:
    """Return a number of retries unchanged, if it is valid."""
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
        raise ConfigurationError("max_retries must be a whole number, 0 or more")
    return max_retries


def checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return a copy of headers, if HTTP allows them. An error names no value: it may be a secret."""
    for name, value in headers.items():
        if not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value):
            raise ConfigurationError(f"a header that HTTP does not allow: {name!r}")
    return dict(headers)


def checked_timeout(timeout: float) -> float:
    """Return a timeout unchanged, if it is valid."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise ConfigurationError("timeout must be a number of seconds")
    if not 0 < timeout < math.inf:
        raise ConfigurationError("timeout must be more than 0 seconds")
    return timeout


def _checked_url(text: str, allow_insecure_http: bool) -> str:
    # Errors do not repeat the URL: people have put credentials into it.
    if not isinstance(text, str) or not _VISIBLE.match(text) or "\\" in text:
        raise ConfigurationError("the base URL is malformed")
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        url, host = urlsplit(""), None
    if not host or url.scheme not in ("http", "https"):
        raise ConfigurationError("the base URL is malformed: it must be like https://aikeys.example.com")
    if url.username is not None or url.password is not None:
        raise ConfigurationError("the base URL may hold no user name or password")
    if "?" in text or "#" in text:
        raise ConfigurationError("the base URL may hold no query and no fragment")
    if url.scheme == "http" and not allow_insecure_http and not _is_loopback(host):
        raise ConfigurationError(
            "the base URL is http:// to another machine, where the API key would go in clear: "
            "use https://, or pass allow_insecure_http=True"
        )
    return text.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
