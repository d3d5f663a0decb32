// AI Keys for the Portkey gateway. Callers send their requests to this program, with an API key of AI Keys in place of a provider's. For
// each request, it asks the agent of AI Keys for the provider key, and forwards the request to Portkey with that key. Run: node front.mjs
//
//   caller ──ak_…──> front.mjs ──provider's key──> Portkey ──> provider
//                       └─ak_…─> aikeys-gateway agent --auth-socket-users=portkey
import http from "node:http";
import { pipeline } from "node:stream/promises";

const AGENT = "/run/aikeys-gateway/agent.sock";
const PORTKEY = "http://127.0.0.1:8787";
const LIMIT = 32 << 20; // bytes of a request's body

// The requests that callers may send, by provider: Portkey's path, the path below the provider's base URL for which the key is requested,
// and the part of that which Portkey appends itself. Everything else is refused.
const ROUTES = {
  openai: {
    "/v1/chat/completions": ["/chat/completions", "/chat/completions"],
    "/v1/embeddings": ["/embeddings", "/embeddings"],
  },
  anthropic: {
    "/v1/chat/completions": ["/v1/messages", "/messages"],
    "/v1/messages": ["/v1/messages", "/messages"],
  },
};

// The headers that are forwarded. Portkey's own are not: they could send the key elsewhere.
const PASSED = ["content-type", "accept", "anthropic-version", "anthropic-beta"];

class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

const ask = (question) => new Promise((resolve, reject) => {
  const unavailable = () => reject(new Refusal(503, "unavailable", "AI Keys is not available. Try again."));
  const options = { socketPath: AGENT, path: "/v1/key", method: "POST", timeout: 5000, agent: false };
  const request = http.request(options, async (response) => {
    try {
      const answer = JSON.parse(Buffer.concat(await response.toArray()));
      response.statusCode === 200 ? resolve(answer) : reject(new Refusal(response.statusCode, answer.code, answer.detail));
    } catch {
      unavailable();
    }
  });
  request.on("error", unavailable).on("timeout", () => request.destroy()).end(JSON.stringify(question));
});

async function read(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    if ((size += chunk.length) > LIMIT) throw new Refusal(413, "too_large", "The request's body is too large.");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function modelOf(body) {
  let model;
  try {
    ({ model } = JSON.parse(body));
  } catch {}
  if (typeof model !== "string") throw new Refusal(400, "invalid_argument", "The request's body is not JSON with a model.");
  return model;
}

async function serve(request, response) {
  const provider = request.headers["x-portkey-provider"] ?? "";
  const route = Object.hasOwn(ROUTES, provider) && Object.hasOwn(ROUTES[provider], request.url) && ROUTES[provider][request.url];
  if (request.method !== "POST" || !route) {
    throw new Refusal(403, "permission_denied", "This is not served with an API key of AI Keys: send x-portkey-provider, and a path that is.");
  }
  const body = await read(request);
  const [path, added] = route;
  const credential = request.headers.authorization?.replace(/^Bearer /i, "") ?? request.headers["x-api-key"];
  const key = await ask({
    provider, path, model: modelOf(body), credential, client_ip: request.socket.remoteAddress,
  });
  const headers = { authorization: `Bearer ${key.secret}`, "x-portkey-provider": provider, "x-portkey-custom-host": key.url.slice(0, -added.length) };
  for (const name of PASSED) {
    if (request.headers[name] !== undefined) headers[name] = request.headers[name];
  }
  const answer = await new Promise((resolve, reject) => {
    const sent = http.request(PORTKEY + request.url, { method: "POST", headers });
    sent.on("response", resolve).on("error", () => reject(new Refusal(502, "unavailable", "Portkey does not answer."))).end(body);
    response.on("close", () => sent.destroy());
  });
  response.writeHead(answer.statusCode, { "content-type": answer.headers["content-type"] ?? "application/json" });
  await pipeline(answer, response);
}

const server = http.createServer(async (request, response) => {
  try {
    await serve(request, response);
  } catch (error) {
    if (response.headersSent) return response.destroy();
    const { status, code, message } = error instanceof Refusal ? error : new Refusal(500, "internal", "Internal error.");
    const text = JSON.stringify({ type: "error", error: { type: code, code, message } });
    response.writeHead(status, { "content-type": "application/json", connection: "close" }).end(text);
  }
});
server.listen(8000, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
