"""Asks for messages with the SDK that each provider's own documentation names, whole and streamed, through the gateway at GATEWAY_URL with the
API key in AGENTROUTER_API_KEY, and once more with a wrong key. Prints one line of JSON: by the SDK's name and, where it is another's, the
provider's, the two texts and that of the error."""

import json
import os

import anthropic
import cohere
import groq
import mistralai.client
import openai
import together

gateway, key = os.environ["GATEWAY_URL"], os.environ["AGENTROUTER_API_KEY"]
ask = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def by_chat(new):
    """For OpenAI's SDK and those made like it."""

    def whole(key):
        return new(key).chat.completions.create(**ask).choices[0].message.content

    def pieces(key):
        return [each.choices[0].delta.content for each in new(key).chat.completions.create(**ask, stream=True)]

    return whole, pieces


def by_openai(path):
    return by_chat(lambda key: openai.OpenAI(base_url=gateway + path, api_key=key))


def by_anthropic(path):
    def whole(key):
        return client(key).messages.create(**ask, max_tokens=9).content[0].text

    def pieces(key):
        return [event.delta.text for event in client(key).messages.create(**ask, max_tokens=9, stream=True)]

    def client(key):
        return anthropic.Anthropic(base_url=gateway + path, api_key=key)

    return whole, pieces


def by_cohere():
    def whole(key):
        return client(key).chat(**ask).message.content[0].text

    def pieces(key):
        return [event.delta.message.content.text for event in client(key).chat_stream(**ask)]

    def client(key):
        return cohere.ClientV2(base_url=gateway + "/cohere", api_key=key)

    return whole, pieces


def by_mistral():
    def whole(key):
        return client(key).chat.complete(**ask).choices[0].message.content

    def pieces(key):
        return [event.data.choices[0].delta.content for event in client(key).chat.stream(**ask)]

    def client(key):
        return mistralai.client.Mistral(server_url=gateway + "/mistral", api_key=key)

    return whole, pieces


def refusal(ask):
    try:
        return ask("ak_revoked_0001")
    except Exception as error:
        return str(error)


clients = {
    "cohere": by_cohere(),
    "groq": by_chat(lambda key: groq.Groq(base_url=gateway + "/groq", api_key=key)),
    "mistralai": by_mistral(),
    "together": by_chat(lambda key: together.Together(base_url=gateway + "/together", api_key=key)),
    "openai deepinfra": by_openai("/deepinfra/v1/openai"),
    "openai deepseek": by_openai("/deepseek"),
    "openai fireworks": by_openai("/fireworks/inference/v1"),
    "openai openrouter": by_openai("/openrouter/api/v1"),
    "openai perplexity": by_openai("/perplexity"),
    "openai xai": by_openai("/xai/v1"),
    "anthropic deepseek": by_anthropic("/deepseek/anthropic"),
    "anthropic fireworks": by_anthropic("/fireworks/inference"),
    "anthropic openrouter": by_anthropic("/openrouter/api"),
    "anthropic xai": by_anthropic("/xai"),
}
shown = {name: [whole(key), "".join(pieces(key)), refusal(whole)] for name, (whole, pieces) in clients.items()}
print(json.dumps(shown))
