"""A value that does not show: not when printed, formatted, logged, copied to JSON or pickled."""

from __future__ import annotations

from typing import Callable, Generic, NoReturn, TypeVar

V = TypeVar("V", str, bytes)

REDACTED = "[redacted]"


class Secret(Generic[V]):
    """Holds a text or bytes for the one place that needs it, which calls reveal."""

    __slots__ = ("_reveal",)
    _reveal: Callable[[], V]

    def __init__(self, value: V) -> None:
        # In a function, as what walks over attributes would find a plain value.
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
