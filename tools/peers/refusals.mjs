// Makes one request with each framework, and prints one line of JSON: the text of the error that each shows, by its name and the
// provider's path in the gateway. GATEWAY is the gateway's URL and API_KEY the key, which the gateway refuses.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createCohere } from "@ai-sdk/cohere";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createMistral } from "@ai-sdk/mistral";
import { createOpenAI } from "@ai-sdk/openai";
import { createPerplexity } from "@ai-sdk/perplexity";
import { ChatAnthropic } from "@langchain/anthropic";
import { ChatGoogleGenerativeAI } from "@langchain/google-genai";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, streamText } from "ai";

const apiKey = process.env.API_KEY;

const vercel = {
  "/openai": createOpenAI,
  "/anthropic/v1": createAnthropic,
  "/gemini/v1beta": createGoogleGenerativeAI,
  "/gemini/v1beta/openai": createOpenAI,
  "/deepseek/anthropic/v1": createAnthropic,
  "/mistral/v1": createMistral,
  "/cohere/v2": createCohere,
  "/perplexity": createPerplexity,
};

const langChain = {
  "/openai": (baseURL) => new ChatOpenAI({ model: "m", apiKey, maxRetries: 0, configuration: { baseURL } }),
  "/anthropic": (anthropicApiUrl) => new ChatAnthropic({ model: "m", apiKey, maxRetries: 0, anthropicApiUrl }),
  "/gemini": (baseUrl) => new ChatGoogleGenerativeAI({ model: "m", apiKey, maxRetries: 0, baseUrl }),
};

async function streamed(request) {
  let failure;
  await streamText({ ...request, onError: ({ error }) => (failure = error) }).consumeStream();
  throw failure;
}

async function show(request) {
  try {
    return await request();
  } catch (error) {
    return error.message;
  }
}

const shown = {};
for (const [path, create] of Object.entries(vercel)) {
  const model = create({ baseURL: process.env.GATEWAY + path, apiKey })("m");
  const request = { model, prompt: "Hi", maxRetries: 0 };
  shown[`AI SDK ${path}`] = await show(() => generateText(request));
  shown[`AI SDK ${path}, streamed`] = await show(() => streamed(request));
}
for (const [path, create] of Object.entries(langChain)) {
  shown[`LangChain ${path}`] = await show(() => create(process.env.GATEWAY + path).invoke("Hi"));
}
console.log(JSON.stringify(shown));
