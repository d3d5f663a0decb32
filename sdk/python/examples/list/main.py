"""Lists the project's keys and the caller's own, one a line, however many there are.

Needs AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY.
"""

from __future__ import annotations

import sys

from agentrouter_sdk import AgentRouterError, Client

try:
    with Client() as client:
        for key in client.aikeys.iterate("", ""):
            print(key.id, key.state, key.provider, key.name, "…" + key.display_suffix)
except AgentRouterError as error:
    sys.exit(str(error))
