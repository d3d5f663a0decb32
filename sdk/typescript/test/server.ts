/** Servers on 127.0.0.1 for tests, which end with the test. */

import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';

/** Starts a server and returns its URL. */
export async function serve(t: TestContext, listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) {
    parts.push(part as Buffer);
  }
  return Buffer.concat(parts).toString();
}

export const key = {
  id: 'byok_01M83VVAHV8M2T5K7N9R4W1XYZ',
  customer_id: 'acme',
  project_id: 'chat',
  provider: 'openai',
  name: 'openai-prod',
  display_suffix: '9f3c',
  user_scope: false,
  created_at: '2026-11-23T09:30:00Z',
  created_by: 'alice',
  state: 'active',
};

/** A server that answers every request with one JSON document, and keeps the requests. */
export async function answering(
  t: TestContext,
  answer: object,
  status = 200,
): Promise<{ baseUrl: string; seen: { request: IncomingMessage; body: string }[] }> {
  const seen: { request: IncomingMessage; body: string }[] = [];
  const baseUrl = await serve(t, (request, response) => {
    void bodyOf(request).then((body) => {
      seen.push({ request, body });
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
    });
  });
  return { baseUrl, seen };
}
