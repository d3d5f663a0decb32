from __future__ import annotations

from typing import Any, Dict, Type, Union

import pytest

from agentrouter_sdk import AsyncClient, Client, ConfigurationError

AnyClient = Union[Type[Client], Type[AsyncClient]]
GOOD: Dict[str, Any] = {"base_url": "https://aikeys.example.com", "api_key": "ak_good"}

both = pytest.mark.parametrize("client", [Client, AsyncClient])


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTROUTER_BASE_URL", raising=False)
    monkeypatch.delenv("AGENTROUTER_API_KEY", raising=False)


@both
def test_what_is_missing_is_named_with_its_variable(client: AnyClient) -> None:
    with pytest.raises(ConfigurationError, match="AGENTROUTER_API_KEY"):
        client(base_url="https://aikeys.example.com")
    with pytest.raises(ConfigurationError, match="AGENTROUTER_BASE_URL"):
        client(api_key="ak_good")


@both
def test_options_win_over_the_environment(client: AnyClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTROUTER_BASE_URL", "https://from.example.com/")
    monkeypatch.setenv("AGENTROUTER_API_KEY", "ak_good")
    assert "https://from.example.com'" in repr(client())
    assert "https://option.example.com'" in repr(client(base_url="https://option.example.com"))


@both
@pytest.mark.parametrize(
    "url",
    [
        "aikeys.example.com",
        "ftp://aikeys.example.com",
        "https://",
        "https://user:MARKED@aikeys.example.com",
        "https://aikeys.example.com?key=MARKED",
        "https://aikeys.example.com/#MARKED",
        "https://aikeys.example.com:port",
        "https://aikeys.example.com\n",
        "https://[::1",
    ],
)
def test_a_malformed_base_url_is_refused_and_not_repeated(client: AnyClient, url: str) -> None:
    with pytest.raises(ConfigurationError, match="base URL") as caught:
        client(base_url=url, api_key="ak_good")
    assert "MARKED" not in str(caught.value)


@both
@pytest.mark.parametrize("key", ["MARKED key", "MARKED\n", "MARKEDé", "MARKED\x00", " MARKED"])
def test_a_malformed_api_key_is_refused_and_not_repeated(client: AnyClient, key: str) -> None:
    with pytest.raises(ConfigurationError, match="API key") as caught:
        client(base_url="https://aikeys.example.com", api_key=key)
    assert "MARKED" not in str(caught.value)


@both
def test_the_api_key_goes_in_clear_only_within_the_machine_or_when_allowed(client: AnyClient) -> None:
    for host in ("127.0.0.1:8080", "localhost", "[::1]:80", "127.8.9.1", "dev.localhost"):
        client(base_url=f"http://{host}", api_key="ak_good")
    for host in ("aikeys.example.com", "10.0.0.1", "localhost.example.com", "0.0.0.0"):
        with pytest.raises(ConfigurationError, match="allow_insecure_http"):
            client(base_url=f"http://{host}", api_key="ak_good")
        client(base_url=f"http://{host}", api_key="ak_good", allow_insecure_http=True)


@both
@pytest.mark.parametrize(
    "setting", [{"timeout": 0}, {"timeout": float("inf")}, {"timeout": "5"}, {"max_retries": -1}, {"max_retries": 1.5}]
)
def test_settings_that_cannot_be_are_refused(client: AnyClient, setting: Dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        client(**GOOD, **setting)
