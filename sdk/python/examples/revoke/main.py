"""Revokes a key, waiting until every data plane has confirmed: the one whose id is given, else the newest active one.

Needs AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY.
"""

from __future__ import annotations

import sys

from agentrouter_sdk import AgentRouterError, Client

try:
    with Client() as client:
        active = (key.id for key in client.aikeys.iterate("", "", state="active"))
        key_id = sys.argv[1] if len(sys.argv) > 1 else next(active, "")
        if not key_id:
            sys.exit("There is no active key.")
        result = client.aikeys.revoke("", "", key_id, wait=5)
except AgentRouterError as error:
    sys.exit(str(error))
print(result)
