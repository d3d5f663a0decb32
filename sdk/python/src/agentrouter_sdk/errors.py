"""The errors of this package. Every class is an AgentRouterError; none of them holds a request or a secret."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Type

from .models import FieldError

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AgentRouterError",
    "AlreadyExistsError",
    "ArgumentError",
    "ConfigurationError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnexpectedResponseError",
]


class AgentRouterError(Exception):
    """The base of all errors of this package."""


class ConfigurationError(AgentRouterError, ValueError):
    """The settings of the client are not valid."""


class ArgumentError(AgentRouterError, ValueError):
    """An argument of a call is not valid. Nothing was sent."""


class APIConnectionError(AgentRouterError):
    """The last attempt, too, got no answer, or only a part of one."""


class APITimeoutError(APIConnectionError):
    """The last attempt, too, got no answer in time."""


class UnexpectedResponseError(AgentRouterError):
    """The answer is not one of the API's: not JSON, of another shape, or a redirect, perhaps from another server."""

    def __init__(self, message: str, status: int = 0, request_id: str = "") -> None:
        super().__init__(message, status, request_id)
        self.message = message
        self.status = status
        self.request_id = request_id

    def __str__(self) -> str:
        return self.message + (f" (request {self.request_id})" if self.request_id else "")


class APIError(AgentRouterError):
    """The service refused the request or failed. There is a subclass for each code that this version knows."""

    status: int
    """The HTTP status."""
    code: str
    """The stable code, such as not_found, whether this version knows it or not."""
    type: str
    """A URI reference that names the kind of problem; finer than the code. Empty where the answer has none."""
    title: str
    """The kind of problem in a few words."""
    detail: str
    """What went wrong and what to do about it, for people."""
    request_id: str
    """The request's id, to quote to support."""
    errors: List[FieldError]
    """The fields at fault."""
    retry_after: Optional[int]
    """After how many seconds to come back. None where the answer did not say."""
    extra: Dict[str, Any]
    """Members of the problem that this version does not know."""

    def __init__(
        self,
        status: int,
        code: str,
        type: str = "",  # noqa: A002 - the problem document's own name
        title: str = "",
        detail: str = "",
        request_id: str = "",
        errors: Optional[List[FieldError]] = None,
        retry_after: Optional[int] = None,
        extra: Optional[Mapping[str, Any]] = None,
    ) -> None:
        # Exceptions are pickled with the positional arguments of the base class.
        super().__init__(status, code, type, title, detail, request_id, errors, retry_after, extra)
        self.status = status
        self.code = code
        self.type = type
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.errors = errors or []
        self.retry_after = retry_after
        self.extra = dict(extra or {})

    def __str__(self) -> str:
        text = f"{self.status} {self.code}: {self.detail or self.title or 'the answer says no more'}"
        if self.errors:
            text += " [" + "; ".join(f"{e.field} {e.message}" for e in self.errors) + "]"
        return text + (f" (request {self.request_id})" if self.request_id else "")

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({str(self)!r})"


class InvalidArgumentError(APIError):
    """The request is not as the method describes it; errors names each invalid field."""


class UnauthenticatedError(APIError):
    """The API key is wrong, revoked or expired."""


class PermissionDeniedError(APIError):
    """The caller is not a member of the project, or their role does not suffice."""


class NotFoundError(APIError):
    """What was asked for does not exist, or the caller may not see it."""


class AlreadyExistsError(APIError):
    """The name is taken by an active key."""


class FailedPreconditionError(APIError):
    """The project's state does not allow it."""


class ResourceExhaustedError(APIError):
    """Too many requests; see retry_after."""


class UnavailableError(APIError):
    """The service can't serve the request now; see retry_after."""


class InternalError(APIError):
    """A fault of the service; quote request_id to support."""


_BY_CODE: Dict[str, Type[APIError]] = {
    "invalid_argument": InvalidArgumentError,
    "unauthenticated": UnauthenticatedError,
    "permission_denied": PermissionDeniedError,
    "not_found": NotFoundError,
    "already_exists": AlreadyExistsError,
    "failed_precondition": FailedPreconditionError,
    "resource_exhausted": ResourceExhaustedError,
    "unavailable": UnavailableError,
    "internal": InternalError,
}

_CODE_OF_STATUS = {
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    409: "failed_precondition",
    429: "resource_exhausted",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}


def code_of_status(status: int) -> str:
    """Return the code for an answer that has none of its own."""
    return _CODE_OF_STATUS.get(status, "invalid_argument" if status < 500 else "internal")


def class_of(code: str, status: int) -> Type[APIError]:
    """Return the class of a problem: that of its code, or of its status if this version does not know the code."""
    return _BY_CODE.get(code) or _BY_CODE[code_of_status(status)]
