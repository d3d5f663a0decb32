// Asks for messages with the Node SDKs of Anthropic, Google and OpenAI for the clouds, as cloud_clients.py does, and prints the same.

import AnthropicBedrock from "@anthropic-ai/bedrock-sdk";
import { AnthropicFoundry } from "@anthropic-ai/foundry-sdk";
import { AnthropicVertex } from "@anthropic-ai/vertex-sdk";
import { GoogleGenAI } from "@google/genai";
import { OAuth2Client } from "google-auth-library";
import OpenAI, { AzureOpenAI } from "openai";

const { GATEWAY_URL: gateway, AGENTROUTER_API_KEY: key } = process.env;
const messages = [{ role: "user", content: "Hi" }];
const texts = {};

async function send(name, client, model) {
  const ask = { model, max_tokens: 100, messages };
  texts[name] = (await client.messages.create(ask)).content[0].text;
  texts[`${name} streamed`] = "";
  for await (const event of await client.messages.create({ ...ask, stream: true })) {
    if (event.type === "content_block_delta") texts[`${name} streamed`] += event.delta.text;
  }
}

const bedrock = { baseURL: `${gateway}/bedrock`, awsRegion: "us-east-1" };
const signing = { awsAccessKey: key, awsSecretKey: "unused" };
await send("bedrock", new AnthropicBedrock({ ...bedrock, apiKey: key }), "anthropic.claude-v1:0");
await send("bedrock signed", new AnthropicBedrock({ ...bedrock, ...signing }), "anthropic.claude-v1:0");

// Google's libraries take an access token from an OAuth client.
const googleUser = new OAuth2Client();
googleUser.setCredentials({ access_token: key });
const vertex = { region: "europe-west1", projectId: "example-project", authClient: googleUser };
await send("vertex", new AnthropicVertex({ ...vertex, baseURL: `${gateway}/vertexanthropic/v1` }), "claude@20260101");
const google = new GoogleGenAI({
  vertexai: true,
  project: "example-project",
  location: "europe-west1",
  googleAuthOptions: { authClient: googleUser },
  httpOptions: { baseUrl: `${gateway}/vertex` },
});
const content = { model: "gemini-x", contents: "Hi" };
texts.genai = (await google.models.generateContent(content)).text;
texts["genai streamed"] = "";
for await (const chunk of await google.models.generateContentStream(content)) texts["genai streamed"] += chunk.text ?? "";

const azure = `${gateway}/azure_openai`;
for (const [name, client] of Object.entries({
  "azure deployment": new AzureOpenAI({ endpoint: azure, apiKey: key, apiVersion: "2024-10-21" }),
  "azure v1": new OpenAI({ baseURL: `${azure}/openai/v1`, apiKey: key }),
})) {
  const ask = { model: "my-deployment", messages };
  texts[name] = (await client.chat.completions.create(ask)).choices[0].message.content;
  texts[`${name} streamed`] = "";
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
    texts[`${name} streamed`] += chunk.choices[0]?.delta?.content ?? "";
  }
}
await send("foundry", new AnthropicFoundry({ baseURL: `${azure}/anthropic`, apiKey: key }), "claude");
console.log(JSON.stringify(texts));
