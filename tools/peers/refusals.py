"""Makes one request with LangChain, whole and streamed, and prints one line of JSON, as refusals.mjs does: the text of the error that it shows.
GATEWAY is the gateway's URL and API_KEY the key, which the gateway refuses."""

import json
import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="m", base_url=os.environ["GATEWAY"] + "/openai", api_key=os.environ["API_KEY"], max_retries=0)
shown = {}
for name, ask in {"LangChain": model.invoke, "LangChain, streamed": lambda text: list(model.stream(text))}.items():
    try:
        ask("Hi")
    except Exception as error:
        shown[name] = str(error)
print(json.dumps(shown))
