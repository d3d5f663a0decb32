"""Registers an OpenAI key for the project and prints what was registered.

Needs AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY, and the key to register in OPENAI_API_KEY, else asks for it.
"""

from __future__ import annotations

import getpass
import os
import sys

from agentrouter_sdk import AgentRouterError, AlreadyExistsError, Client

secret = os.environ.get("OPENAI_API_KEY") or getpass.getpass("OpenAI key (not shown): ")

try:
    with Client() as client:
        result = client.aikeys.register(provider="openai", name="openai-prod", secret=secret)
except AlreadyExistsError as error:
    sys.exit(f"{error}\nTo replace that key, register this one under another name: the newest serves.")
except AgentRouterError as error:
    sys.exit(str(error))
print(result)
