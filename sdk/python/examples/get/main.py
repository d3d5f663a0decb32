"""Prints one key: the one whose id is given, else the newest.

Needs AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY.
"""

from __future__ import annotations

import sys

from agentrouter_sdk import AgentRouterError, Client

try:
    with Client() as client:
        key_id = sys.argv[1] if len(sys.argv) > 1 else next((key.id for key in client.aikeys.iterate("", "")), "")
        if not key_id:
            sys.exit("There is no key yet; register one first.")
        result = client.aikeys.get("", "", key_id)
except AgentRouterError as error:
    sys.exit(str(error))
print(result)
