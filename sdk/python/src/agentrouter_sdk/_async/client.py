"""The client."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Awaitable, Callable, Mapping, Optional, Type, Union

import httpx

from .. import _operations as operations
from .._config import RawResponse, checked_headers, checked_retries, checked_timeout, configure
from ..models import SignInOptionsResponse, WhoAmIResponse
from .resources import (
    AsyncAIKeys,
    AsyncEvents,
    AsyncFetches,
    AsyncLeaks,
    AsyncMembers,
    AsyncPolicy,
    AsyncProjects,
    AsyncProviders,
    AsyncTokens,
    AsyncUsage,
)
from .transport import AsyncTransport


class AsyncClient:
    """A client of AgentRouter AI Keys for async programs.

    It may be used by many tasks at a time. Close it after use, or use it as a context manager.

    - base_url and api_key: by default AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY. An api_key may be a function that
      returns it, which is called for each attempt, so that session tokens can be replaced.
    - timeout: how many seconds one attempt may take.
    - max_retries: how often to retry a call that failed for a temporary reason; 0 means never.
    - allow_insecure_http: whether to send the API key in clear text to another machine, with a base URL of http://.
    - http_client: the httpx client to use, for a proxy or your own certificates. close does not close it.
    """

    aikeys: AsyncAIKeys
    """Register, list, read and revoke provider keys."""
    policy: AsyncPolicy
    """The project's policy on whose keys serve whom."""
    events: AsyncEvents
    """The audit trail."""
    fetches: AsyncFetches
    """Which data planes fetched which keys."""
    usage: AsyncUsage
    """How often which key served whom."""
    members: AsyncMembers
    """The project's members."""
    leaks: AsyncLeaks
    """Find and revoke keys that have leaked."""
    projects: AsyncProjects
    """The projects in which the caller may act."""
    tokens: AsyncTokens
    """Make, list and revoke API keys of the service."""
    providers: AsyncProviders
    """The catalogue of providers."""

    def __init__(
        self,
        *,
        base_url: Optional[str] = None,
        api_key: Union[str, Callable[[], Awaitable[str]], None] = None,
        timeout: float = 30.0,
        max_retries: int = 2,
        allow_insecure_http: bool = False,
        http_client: Optional[httpx.AsyncClient] = None,
    ) -> None:
        config = configure(base_url, api_key, timeout, max_retries, allow_insecure_http)
        self._use(AsyncTransport(config, http_client))

    def _use(self, transport: AsyncTransport) -> None:
        self._base_url = transport.config.base_url
        self._transport = transport
        self.aikeys = AsyncAIKeys(self._transport)
        self.policy = AsyncPolicy(self._transport)
        self.events = AsyncEvents(self._transport)
        self.fetches = AsyncFetches(self._transport)
        self.usage = AsyncUsage(self._transport)
        self.members = AsyncMembers(self._transport)
        self.leaks = AsyncLeaks(self._transport)
        self.projects = AsyncProjects(self._transport)
        self.tokens = AsyncTokens(self._transport)
        self.providers = AsyncProviders(self._transport)

    def with_options(
        self,
        *,
        timeout: Optional[float] = None,
        max_retries: Optional[int] = None,
        headers: Optional[Mapping[str, str]] = None,
        on_response: Optional[Callable[[RawResponse], object]] = None,
    ) -> AsyncClient:
        """Return a client with other settings for some calls. It shares this one's connections and need not be closed.

        - headers: more headers for each request. The SDK's own win.
        - on_response: called with each response, also an error's, with its request_id and its raw body.
        """
        config = self._transport.config
        if timeout is not None:
            config = replace(config, timeout=checked_timeout(timeout))
        if max_retries is not None:
            config = replace(config, max_retries=checked_retries(max_retries))
        if headers is not None:
            config = replace(config, headers={**config.headers, **checked_headers(headers)})
        if on_response is not None:
            config = replace(config, on_response=on_response)
        client = AsyncClient.__new__(AsyncClient)
        client._use(self._transport.with_config(config))
        return client

    async def whoami(self, *, timeout: Optional[float] = None) -> WhoAmIResponse:
        """Show the user of the API key, and the customer and project that "" means."""
        return await self._transport.send(operations.WHO_AM_I.call({}, timeout=timeout))

    async def sign_in_options(self, *, timeout: Optional[float] = None) -> SignInOptionsResponse:
        """Show which credentials the service accepts, and how people get a session token from its issuer."""
        return await self._transport.send(operations.GET_SIGN_IN_OPTIONS.call({}, timeout=timeout))

    async def close(self) -> None:
        """Close the client's connections."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(base_url={self._base_url!r}, api_key=[redacted])"
