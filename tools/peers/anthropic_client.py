"""Asks for a message with the official Anthropic SDK, as it comes: base URL and key are in the SDK's own variables,
ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY. peer.py says what it prints."""

import anthropic
import peer


def whole(client):
    answer = client.messages.create(
        model="fake-1", max_tokens=100, messages=[{"role": "user", "content": "Hi"}]
    )
    return answer.content[0].text


def pieces(client):
    with client.messages.stream(
        model="fake-1", max_tokens=100, messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        yield from stream.text_stream


peer.run(anthropic.Anthropic, whole, pieces, anthropic.APIError)
