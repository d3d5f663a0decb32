"""Shows that the fuzzing notices: documents that are wrong about the service, and a service that says yes to all."""

from __future__ import annotations

import copy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REGISTER = "/v1/customers/{customer_id}/projects/{project_id}/aikeys"
OPERATIONS = ["whoAmI", "listProviders", "registerKey"]

# What must be said of the wrong document: which failure, of which path.
WRONG = {
    ("UndefinedStatusCode", "/v1/whoami"),
    ("UndefinedContentType", "/v1/whoami"),
    ("JsonSchemaError", "/v1/providers"),
    ("MissingHeaders", REGISTER),
}

# And what of a service that answers everything with 200 and what was sent, and one thing with 500.
YES = {
    ("IgnoredAuth", "/v1/whoami"),
    ("JsonSchemaError", "/v1/whoami"),
    ("UnsupportedMethodResponse", "/v1/whoami"),
    ("ServerError", "/v1/providers"),
    ("AcceptedNegativeData", REGISTER),
    ("Custom check failed: `no_secret_shows`", REGISTER),
    ("Custom check failed: `traceable`", REGISTER),
}


def wrong(document: dict[str, Any]) -> dict[str, Any]:
    """A document that differs from the right one in four small ways."""
    document = copy.deepcopy(document)
    paths, schemas = document["paths"], document["components"]["schemas"]
    answers = paths["/v1/whoami"]["get"]["responses"]
    del answers["401"]
    answers["200"]["content"] = {"application/xml": answers["200"]["content"]["application/json"]}
    schemas["Provider"]["properties"]["display_name"]["maxLength"] = 3
    paths[REGISTER]["post"]["responses"]["201"]["headers"]["X-Not-There"] = {
        "description": "A header that no answer has.",
        "required": True,
        "schema": {"type": "string"},
    }
    return document


class YesHandler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"
        self.send_response(500 if self.path.startswith("/v1/providers") else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


class YesServer:
    def __enter__(self) -> str:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), YesHandler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *exc: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
