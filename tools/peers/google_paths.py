"""Lists files by page, downloads one, asks the version v1alpha and holds a Live session with Google's own SDK. Base URL and key are in the SDK's own
variables, GOOGLE_GEMINI_BASE_URL and GEMINI_API_KEY. Prints one line of JSON with what came back."""

import asyncio
import json

from google import genai


async def talk(client):
    async with client.aio.live.connect(model="m", config={"response_modalities": ["TEXT"]}) as session:
        await session.send_client_content(turns={"role": "user", "parts": [{"text": "Hi"}]})
        return "".join([message.text or "" async for message in session.receive()])


client = genai.Client()
files = list(client.files.list(config={"page_size": 1}))
alpha = genai.Client(http_options={"api_version": "v1alpha"})
print(
    json.dumps(
        {
            "files": [file.name for file in files],
            "download": client.files.download(file=files[0]).decode(),
            "alpha": alpha.models.generate_content(model="m", contents="Hi").text,
            "live": asyncio.run(talk(client)),
        }
    )
)
