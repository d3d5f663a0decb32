"""AgentRouter AI Keys: register, list and revoke LLM providers' keys.

>>> from agentrouter_sdk import Client
>>> client = Client()  # reads AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY
>>> print(client.aikeys.list("", ""))  # "" stands for your session's customer and project

Client and AsyncClient have the same methods. The results are in agentrouter_sdk.models, the errors here and in
agentrouter_sdk.errors.
"""

from ._async.client import AsyncClient
from ._config import RawResponse
from ._operations import KeyState, OnBadKey, OnLimited, Operations, ProviderSlug, Role, UserKeys
from ._sync.client import Client
from ._version import __version__
from .errors import (
    AgentRouterError,
    AlreadyExistsError,
    APIConnectionError,
    APIError,
    APITimeoutError,
    ArgumentError,
    ConfigurationError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnexpectedResponseError,
)

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AgentRouterError",
    "AlreadyExistsError",
    "ArgumentError",
    "AsyncClient",
    "Client",
    "ConfigurationError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "KeyState",
    "NotFoundError",
    "OnBadKey",
    "OnLimited",
    "Operations",
    "PermissionDeniedError",
    "ProviderSlug",
    "RawResponse",
    "ResourceExhaustedError",
    "Role",
    "UnauthenticatedError",
    "UnavailableError",
    "UnexpectedResponseError",
    "UserKeys",
    "__version__",
]
