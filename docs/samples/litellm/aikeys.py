"""AI Keys for the LiteLLM proxy. Callers send an API key of AI Keys in place of LiteLLM's. Before each request to a provider, a
repeated one included, LiteLLM asks the agent of AI Keys which provider key serves it; without an answer, no request is sent.
"""

import asyncio
import hashlib
import http.client
import json
import socket

from fastapi import HTTPException, Request
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

AGENT = "/run/aikeys-gateway/agent.sock"

# The calls that LiteLLM accepts, and the path of each at the provider. It refuses all others.
ROUTES = ("/chat/completions", "/v1/chat/completions", "/embeddings", "/v1/embeddings", "/v1/messages")
PATHS = {
    ("openai", "acompletion"): "/chat/completions",
    ("openai", "aembedding"): "/embeddings",
    ("anthropic", "acompletion"): "/v1/messages",
    ("anthropic", "anthropic_messages"): "/v1/messages",
}


def ask(question: dict) -> dict:
    agent = http.client.HTTPConnection("agent", timeout=5)
    agent.sock = socket.socket(socket.AF_UNIX)
    agent.sock.settimeout(5)
    try:
        agent.sock.connect(AGENT)
        agent.request("POST", "/v1/key", json.dumps(question))
        response = agent.getresponse()
        answer = json.load(response)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise HTTPException(503, "AI Keys is not available. Try again.") from error
    finally:
        agent.close()
    if response.status != 200:
        raise HTTPException(response.status, answer["detail"])
    return answer


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Is LiteLLM's custom_auth. The agent checks the credential, once the provider is known; LiteLLM logs only its hash."""
    if request.url.path not in ROUTES:
        raise HTTPException(403, "This path is not served with an API key of AI Keys.")
    return UserAPIKeyAuth(api_key=hashlib.sha256(api_key.encode()).hexdigest())


class AIKeys(CustomLogger):
    """Asks the agent before each request to a provider: LiteLLM calls this once it has chosen the deployment, for repetitions too."""

    async def async_pre_call_deployment_hook(self, kwargs: dict, call_type) -> dict:
        provider, _, model = kwargs["model"].partition("/")
        path = PATHS.get((provider, getattr(call_type, "value", None)))
        if path is None or not model or kwargs.get("custom_llm_provider") not in (None, provider):
            raise HTTPException(403, "LiteLLM does not serve this with an API key of AI Keys.")
        sent = kwargs["secret_fields"]["raw_headers"]
        credential = sent.get("authorization", "").removeprefix("Bearer ") or sent.get("x-api-key", "")
        question = {"provider": provider, "path": path, "model": model, "credential": credential}
        answer = await asyncio.to_thread(ask, question)
        return {**kwargs, "api_key": answer["secret"], "api_base": answer["base_url"], "base_url": None}


keys = AIKeys()
