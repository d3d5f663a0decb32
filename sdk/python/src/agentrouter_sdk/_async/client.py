"""The client."""

from __future__ import annotations

from types import TracebackType
from typing import Optional, Type

import httpx

from .. import _operations as operations
from .._config import configure
from ..models import WhoAmIResponse
from .resources import (
    AsyncAIKeys,
    AsyncEvents,
    AsyncFetches,
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

    - base_url and api_key: where they are not given, AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY are read.
    - timeout: how many seconds one attempt may take.
    - max_retries: how often to try again what failed for a reason that may pass. 0: never.
    - allow_insecure_http: whether the API key may go in clear to another machine, with a base URL of http://.
    - http_client: an httpx client to use, for a proxy or certificates of one's own. It stays open after close.
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
        api_key: Optional[str] = None,
        timeout: float = 30.0,
        max_retries: int = 2,
        allow_insecure_http: bool = False,
        http_client: Optional[httpx.AsyncClient] = None,
    ) -> None:
        config = configure(base_url, api_key, timeout, max_retries, allow_insecure_http)
        self._base_url = config.base_url
        self._transport = AsyncTransport(config, http_client)
        self.aikeys = AsyncAIKeys(self._transport)
        self.policy = AsyncPolicy(self._transport)
        self.events = AsyncEvents(self._transport)
        self.fetches = AsyncFetches(self._transport)
        self.usage = AsyncUsage(self._transport)
        self.members = AsyncMembers(self._transport)
        self.projects = AsyncProjects(self._transport)
        self.tokens = AsyncTokens(self._transport)
        self.providers = AsyncProviders(self._transport)

    async def whoami(self, *, timeout: Optional[float] = None) -> WhoAmIResponse:
        """Show whom the API key stands for, and the customer and project that "" means."""
        return await self._transport.send(operations.WHO_AM_I.call({}, timeout=timeout))

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
