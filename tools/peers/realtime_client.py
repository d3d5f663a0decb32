"""Opens a Realtime session with the official OpenAI SDK, as a server does, and prints what realtime_client.mjs prints."""

import json

import openai

with openai.OpenAI().realtime.connect(model="fake-1") as session:
    first = session.recv()
    session.send({"type": "input_audio_buffer.clear"})
    second = session.recv()
    print(json.dumps([first.type, second.type]))
