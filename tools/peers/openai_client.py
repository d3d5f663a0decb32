"""Asks for a completion with the official OpenAI SDK, as it comes: base URL and key are in the SDK's own variables,
OPENAI_BASE_URL and OPENAI_API_KEY. peer.py says what it prints."""

import openai
import peer


def whole(client):
    answer = client.chat.completions.create(model="fake-1", messages=[{"role": "user", "content": "Hi"}])
    return answer.choices[0].message.content


def pieces(client):
    stream = client.chat.completions.create(
        model="fake-1", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


peer.run(openai.OpenAI, whole, pieces, openai.APIError)
