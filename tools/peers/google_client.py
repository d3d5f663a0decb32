"""Uploads a file and asks for content with Google's own SDK, as it comes: base URL and key are in the SDK's own variables,
GOOGLE_GEMINI_BASE_URL and GEMINI_API_KEY. peer.py says what it prints."""

import io

import peer
from google import genai
from google.genai import errors


def whole(client):
    file = client.files.upload(file=io.BytesIO(b"Hi"), config={"mime_type": "text/plain"})
    return client.models.generate_content(model="fake-1", contents=["Read this.", file]).text


def pieces(client):
    for chunk in client.models.generate_content_stream(model="fake-1", contents="Hi"):
        if chunk.text:
            yield chunk.text


peer.run(genai.Client, whole, pieces, errors.APIError)
