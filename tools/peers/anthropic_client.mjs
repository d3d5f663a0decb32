// Asks for a message with the official Anthropic SDK, as it comes: base URL and key are in the SDK's own variables,
// ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY. peer.py says what it prints.

import Anthropic from "@anthropic-ai/sdk";

import { run } from "./peer.mjs";

const question = { model: "fake-1", max_tokens: 100, messages: [{ role: "user", content: "Hi" }] };

async function whole(client) {
  const answer = await client.messages.create(question);
  return answer.content[0].text;
}

async function* pieces(client) {
  for await (const event of await client.messages.create({ ...question, stream: true })) {
    if (event.type === "content_block_delta" && event.delta.type === "text_delta") yield event.delta.text;
  }
}

await run(() => new Anthropic(), whole, pieces, Anthropic.APIError);
