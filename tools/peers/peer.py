"""What the Python clients share. Each asks once for a whole answer and once for a streamed one, and prints one line of
JSON: {"text", "streamed_text", "chunks", "first_ms", "last_ms"} with the times of the first and last chunk since the
streamed call began; or {"error": {"class", "status", "message"}}, the SDK's own exception. While it streams, it writes
a line to stderr for each chunk that it has got."""

import json
import sys
import time


def run(new_client, whole, pieces, api_error):
    try:
        client = new_client()
        result = {"text": whole(client), **timed(pieces, client)}
    except api_error as error:
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        result = {"error": {"class": type(error).__name__, "status": status, "message": error.message}}
    print(json.dumps(result))


def timed(pieces, client):
    got, times, start = [], [], time.monotonic()
    for piece in pieces(client):
        times.append(round((time.monotonic() - start) * 1000, 3))
        got.append(piece)
        print("chunk", len(got), file=sys.stderr, flush=True)
    return {
        "streamed_text": "".join(got),
        "chunks": len(got),
        "first_ms": times[0] if times else None,
        "last_ms": times[-1] if times else None,
    }
