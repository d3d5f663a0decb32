// Uploads a file and asks for content with Google's own SDK, as it comes: base URL and key are in the SDK's own variables,
// GOOGLE_GEMINI_BASE_URL and GEMINI_API_KEY. peer.py says what it prints.

import { ApiError, GoogleGenAI } from "@google/genai";

import { run } from "./peer.mjs";

async function whole(client) {
  const file = await client.files.upload({ file: new Blob(["Hi"]), config: { mimeType: "text/plain" } });
  const answer = await client.models.generateContent({
    model: "fake-1",
    contents: ["Read this.", { fileData: { fileUri: file.uri, mimeType: file.mimeType } }],
  });
  return answer.text;
}

async function* pieces(client) {
  for await (const chunk of await client.models.generateContentStream({ model: "fake-1", contents: "Hi" })) {
    if (chunk.text) yield chunk.text;
  }
}

await run(() => new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY }), whole, pieces, ApiError);
