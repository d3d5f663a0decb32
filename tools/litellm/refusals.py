"""Makes requests with LiteLLM as a library, and prints one line of JSON, as refusals.mjs of the other frameworks does: the text of the error
that it shows, by the provider. GATEWAY is the gateway's URL and API_KEY the key, which the gateway refuses."""

import json
import os

import litellm

litellm.suppress_debug_info = True
bases = {
    "openai": "/openai",
    "anthropic": "/anthropic",
    "gemini": "/gemini/v1beta",
    "mistral": "/mistral/v1",
    "groq": "/groq",
    "deepseek": "/deepseek",
}
shown = {}
for provider, path in bases.items():
    for stream in False, True:
        try:
            answer = litellm.completion(
                model=provider + "/m",
                api_base=os.environ["GATEWAY"] + path,
                api_key=os.environ["API_KEY"],
                messages=[{"role": "user", "content": "Hi"}],
                stream=stream,
                max_retries=0,
            )
            list(answer)  # Gemini's is asked for when it is read
        except Exception as error:
            shown[f"LiteLLM {path}" + ", streamed" * stream] = str(error)
print(json.dumps(shown))
