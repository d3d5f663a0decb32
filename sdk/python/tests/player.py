"""A server on 127.0.0.1 that checks requests and plays answers, in order."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, Iterator, List, Optional
from urllib.parse import parse_qsl, urlsplit

Answer = Dict[str, Any]


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: Dict[str, str]
    headers: Dict[str, str]
    body: bytes


@dataclass
class Player:
    """What the server saw, and where it is."""

    url: str
    seen: List[Seen] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


@contextmanager
def playing(answer: Callable[[int, Seen], Answer]) -> Iterator[Player]:
    """Serve, asking for the answer to each request: a dict as in the vectors' responses."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            address = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            seen = Seen(
                method=self.command,
                path=address.path,
                query=dict(parse_qsl(address.query, keep_blank_values=True)),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(length),
            )
            with lock:
                number = len(player.seen)
                player.seen.append(seen)
            self.play(answer(number, seen))

        def play(self, response: Answer) -> None:
            if response.get("close"):
                self.close_connection = True
                return
            body = response.get("body_text")
            if body is None:
                body = json.dumps(response["body"]) if "body" in response else ""
            data = body.encode() if isinstance(body, str) else body
            self.send_response(response["status"])
            for name, value in response.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if response.get("truncate"):
                data = data[: len(data) // 2]
                self.close_connection = True
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    player = Player(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield player
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def always(status: int, body: Any, headers: Optional[Dict[str, str]] = None) -> Callable[[int, Seen], Answer]:
    """Return an answer that is the same every time."""
    answer: Answer = {"status": status, "body": body, "headers": headers or {"content-type": "application/json"}}
    return lambda number, seen: answer


def problem(status: int, code: str, detail: str = "It is so.") -> Dict[str, Any]:
    """Return a problem document."""
    return {
        "type": "/problems/" + code.replace("_", "-"),
        "title": code,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "01M83VVAHQQW2E4R6T8Y0A1S3D",
    }


KEY: Dict[str, Any] = {
    "id": "byok_01M83VVAHV8M2T5K7N9R4W1XYZ",
    "customer_id": "acme",
    "project_id": "chat",
    "provider": "openai",
    "name": "openai-prod",
    "display_suffix": "9f3c",
    "user_scope": False,
    "created_at": "2026-11-23T09:30:00.123456Z",
    "created_by": "alice",
    "state": "active",
}
