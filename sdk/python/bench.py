"""Measures a get with the SDK and with bare httpx, in turn, against a server of its own."""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import sys
import time
from typing import Any, Callable, Dict, List

import httpx

from agentrouter_sdk import Client

WARM_UP = 200
CALLS = 4000
API_KEY = "ak_bench_key"
ID = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"
KEY: Dict[str, Any] = {
    "id": ID,
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


def serve(listener: socket.socket) -> None:
    """Answer every request on one connection after another with the same key."""
    body = json.dumps({"key": KEY}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connections: List[multiprocessing.Process] = []
    while True:
        connection, _ = listener.accept()
        connections.append(multiprocessing.Process(target=answer, args=(connection, head + body), daemon=False))
        connections[-1].start()
        connection.close()


def answer(connection: socket.socket, reply: bytes) -> None:
    """Answer the requests of one connection until it ends."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    got = b""
    while True:
        more = connection.recv(65536)
        if not more:
            return
        got += more
        while b"\r\n\r\n" in got:
            _, _, got = got.partition(b"\r\n\r\n")
            connection.sendall(reply)


def timed(call: Callable[[], Any]) -> float:
    """Return the microseconds that a call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e6


def main() -> int:
    """Print both times and their ratio; fail where the SDK costs a tenth more or over."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.Process(target=serve, args=(listener,))
    server.start()
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    url = f"{base}/v1/customers/-/projects/-/aikeys/{ID}"
    headers = {"Authorization": "Bearer " + API_KEY}
    try:
        with Client(base_url=base, api_key=API_KEY) as client, httpx.Client() as http:

            def bare() -> Any:
                return http.get(url, headers=headers).raise_for_status().json()

            def sdk() -> Any:
                return client.aikeys.get("", "", ID)

            # In turn, so that what else the machine does falls on both.
            pairs = [(timed(bare), timed(sdk)) for _ in range(WARM_UP + CALLS)][WARM_UP:]
    finally:
        server.terminate()
        server.join()
    bare_time, sdk_time = (statistics.median(times) for times in zip(*pairs))
    ratio = sdk_time / bare_time
    print(f"get: httpx {bare_time:.0f} us, sdk {sdk_time:.0f} us, ratio {ratio:.3f}")
    return 0 if ratio < 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
