"""A value that is never shown: not printed, formatted, logged, written as JSON or pickled."""

from __future__ import annotations

from typing import Callable, Generic, NoReturn, TypeVar

V = TypeVar("V", str, bytes)

REDACTED = "[redacted]"


class Secret(Generic[V]):
    """A secret text or bytes. Code that needs the value calls reveal."""

    __slots__ = ("_reveal",)
    _reveal: Callable[[], V]

    def __init__(self, value: V) -> None:
        # In a function: code that walks over attributes would find a plain value.
        def reveal() -> V:
            return value

        self._reveal = reveal

    def reveal(self) -> V:
        """Return the value itself."""
        return self._reveal()

    def __repr__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return REDACTED

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")
