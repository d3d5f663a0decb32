"""Calls either client by a method's name, so that one test is for both."""

from __future__ import annotations

import inspect
from typing import Any, Dict, List

import anyio

from agentrouter_sdk import AsyncClient, Client


class Outcome:
    """What came of a call: its result, or what an iterator gave before its error, and the error."""

    def __init__(self) -> None:
        self.result: Any = None
        self.items: List[Any] = []
        self.error: Any = None


def method_of(client: Any, name: str) -> Any:
    """Return a client's method, such as aikeys.get."""
    for step in name.split("."):
        client = getattr(client, step)
    return client


def call_sync(settings: Dict[str, Any], name: str, arguments: Dict[str, Any]) -> Outcome:
    """Call a method of the sync client."""
    outcome = Outcome()
    with Client(**settings) as client:
        try:
            answer = method_of(client, name)(**arguments)
            if inspect.isgenerator(answer):
                for item in answer:
                    outcome.items.append(item)
            else:
                outcome.result = answer
        except Exception as error:
            outcome.error = error
    return outcome


def call_async(settings: Dict[str, Any], name: str, arguments: Dict[str, Any]) -> Outcome:
    """Call a method of the async client."""

    async def main() -> Outcome:
        outcome = Outcome()
        async with AsyncClient(**settings) as client:
            try:
                answer = method_of(client, name)(**arguments)
                if inspect.isasyncgen(answer):
                    async for item in answer:
                        outcome.items.append(item)
                else:
                    outcome.result = await answer
            except Exception as error:
                outcome.error = error
        return outcome

    return anyio.run(main)
