"""The base of the generated models."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Iterable, Optional, Tuple

from pydantic import BaseModel, ConfigDict


class _Bare(str):
    """A text that prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return _Bare(value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z"))
    return value


class Model(BaseModel):
    """A response. Fields that this version does not know are kept, as attributes and in model_extra."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True, protected_namespaces=())

    def __repr_args__(self) -> Iterable[Tuple[Optional[str], Any]]:
        # Only the fields that came: most answers lack most optional fields.
        return [(name, _shown(value)) for name, value in self if name in self.model_fields_set]

    def __str__(self) -> str:
        return repr(self)
