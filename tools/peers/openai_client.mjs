// Asks for a completion with the official OpenAI SDK, as it comes: base URL and key are in the SDK's own variables,
// OPENAI_BASE_URL and OPENAI_API_KEY. peer.py says what it prints.

import OpenAI from "openai";

import { run } from "./peer.mjs";

const question = { model: "fake-1", messages: [{ role: "user", content: "Hi" }] };

async function whole(client) {
  const answer = await client.chat.completions.create(question);
  return answer.choices[0].message.content;
}

async function* pieces(client) {
  for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
    const text = chunk.choices[0]?.delta?.content;
    if (text) yield text;
  }
}

await run(() => new OpenAI(), whole, pieces, OpenAI.APIError);
