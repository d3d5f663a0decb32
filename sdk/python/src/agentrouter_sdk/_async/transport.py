"""Sends calls and tries again."""

from __future__ import annotations

import logging
import time
from typing import List, Optional, TypeVar, Union

import anyio
import httpx

from .._config import Config, RawResponse, checked_key
from .._exchange import connection_error, headers_of, pause_before_retry, read, timeout_of
from .._model import Model
from .._operation import Call
from ..errors import AgentRouterError

T = TypeVar("T", bound=Model)

_log = logging.getLogger("agentrouter_sdk")


class AsyncTransport:
    """Sends calls over an HTTP client, by default its own."""

    def __init__(self, config: Config, http_client: Optional[httpx.AsyncClient]) -> None:
        self.config = config
        self._timeout = httpx.Timeout(config.timeout)
        self._owned = http_client is None
        self._http = httpx.AsyncClient() if http_client is None else http_client

    def with_config(self, config: Config) -> AsyncTransport:
        """Return a transport with other settings that uses the same connections. Its close does nothing."""
        return AsyncTransport(config, self._http)

    async def close(self) -> None:
        """Close the connections, unless they belong to a given HTTP client."""
        if self._owned:
            await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Send a call, with retries, and return its result."""
        attempt = 0
        while True:
            outcome = await self._attempt(call)
            if not isinstance(outcome, AgentRouterError):
                return outcome
            pause = pause_before_retry(self.config, outcome, attempt)
            if pause is None:
                raise outcome
            attempt += 1
            _log.debug("%s: retry %d in %.2f s after: %s", call.operation.id, attempt, pause, outcome)
            await anyio.sleep(pause)

    async def _attempt(self, call: Call[T]) -> Union[T, AgentRouterError]:
        """Return the result or the error. The HTTP client's errors end here: they hold the request."""
        source = self.config.api_key
        key = checked_key(await source()) if callable(source) else source
        timeout = timeout_of(self.config, call)
        began = time.monotonic()
        try:
            request = self._http.build_request(
                call.operation.method,
                self.config.base_url + call.target,
                headers=headers_of(self.config, key, call),
                content=None if call.body is None else call.body.reveal(),
                timeout=self._timeout if timeout == self.config.timeout else timeout,
            )
            response = await self._http.send(request, stream=True, follow_redirects=False)
            try:
                body = await self._body(response, time.monotonic() + timeout)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as cause:
            return connection_error(key, call, cause, timeout)
        seen = RawResponse(response.status_code, response.headers, body, response.headers.get("X-Request-Id", ""))
        took = time.monotonic() - began
        _log.debug("%s: %d after %.3f s (request %s)", call.operation.id, seen.status, took, seen.request_id)
        if self.config.on_response is not None:
            self.config.on_response(seen)
        return read(key, call, response, body)

    async def _body(self, response: httpx.Response, deadline: float) -> bytes:
        # The HTTP client limits the wait for each piece, not for the whole response.
        pieces: List[bytes] = []
        async for piece in response.aiter_bytes():
            pieces.append(piece)
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the answer does not end")
        return b"".join(pieces)
