"""Asks for messages with the SDKs of Anthropic, AWS and OpenAI for the clouds, whole and streamed, through the gateway at GATEWAY_URL with the
API key in AGENTROUTER_API_KEY. Prints one line of JSON: the text of each answer, by the client's name."""

import json
import os

import anthropic
import boto3
import openai

gateway, key = os.environ["GATEWAY_URL"], os.environ["AGENTROUTER_API_KEY"]
region, project = "us-east-1", "example-project"
ask = {"max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}
model, profile = "anthropic.claude-v1:0", "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-v1:0"
signing = {"aws_access_key": key, "aws_secret_key": "unused"}
texts = {}


def send(name, client, model):
    texts[name] = client.messages.create(model=model, **ask).content[0].text
    with client.messages.stream(model=model, **ask) as stream:
        texts[name + " streamed"] = "".join(stream.text_stream)


bedrock = {"base_url": gateway + "/bedrock", "aws_region": region}
send("bedrock", anthropic.AnthropicBedrock(api_key=key, **bedrock), model)
send("bedrock signed", anthropic.AnthropicBedrock(**signing, **bedrock), model)
vertex = anthropic.AnthropicVertex(
    base_url=gateway + "/vertexanthropic/v1", region="europe-west1", project_id=project, access_token=key
)
send("vertex", vertex, "claude@20260101")
runtime = boto3.client(
    "bedrock-runtime",
    endpoint_url=gateway + "/bedrock",
    region_name=region,
    aws_access_key_id=key,
    aws_secret_access_key="unused",
)
for name, each in {"boto3": model, "boto3 profile": profile}.items():
    asked = {"modelId": each, "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
    texts[name] = runtime.converse(**asked)["output"]["message"]["content"][0]["text"]
    events = runtime.converse_stream(**asked)["stream"]
    deltas = (event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event)
    texts[name + " streamed"] = "".join(delta["text"] for delta in deltas)
azure = gateway + "/azure_openai"
asked = {"model": "my-deployment", "messages": ask["messages"]}
for name, client in {
    "azure deployment": openai.AzureOpenAI(azure_endpoint=azure, api_key=key, api_version="2024-10-21"),
    "azure v1": openai.OpenAI(base_url=azure + "/openai/v1/", api_key=key),
}.items():
    texts[name] = client.chat.completions.create(**asked).choices[0].message.content
    pieces = client.chat.completions.create(**asked, stream=True)
    texts[name + " streamed"] = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
send("foundry", anthropic.AnthropicFoundry(base_url=azure + "/anthropic", api_key=key), "claude")
print(json.dumps(texts))
