/** No secret shows in what people print: clients, their parts, and errors. */

import assert from 'node:assert/strict';
import { Console } from 'node:console';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { AgentRouterError, Client } from '../src/index.js';
import { bodyOf, serve } from './server.js';

const apiKey = 'ak_MARKED_SECRET';
const secret = '{"marked":"MARKED_SECRET \\u2028"}';

/** Everything that people do to look at a value. */
function printed(value: unknown): string {
  let text = '';
  const stream = new Writable({
    write(chunk, _, done) {
      text += String(chunk);
      done();
    },
  });
  const out = new Console({ stdout: stream, stderr: stream });
  out.log(value);
  out.error('%s %o %O %j', value, value, value, value);
  out.dir(value, { showHidden: true, depth: null });
  out.table(value);
  text += inspect(value, { showHidden: true, depth: null, getters: true }) + JSON.stringify(value) + String(value);
  for (const name of Object.getOwnPropertyNames(value)) {
    text += inspect((value as Record<string, unknown>)[name], { showHidden: true, depth: null, getters: true });
  }
  return text;
}

test('no part of a client shows its API key', () => {
  const client = new Client({ baseUrl: 'https://aikeys.example.com', apiKey, headers: { 'x-a': 'MARKED_SECRET' } });
  const text = [client, client.aikeys, client.policy, client.events, client.members, client.providers].map(printed);
  assert.match(text.join(''), /AIKeys/);
  assert.doesNotMatch(text.join(''), /MARKED_SECRET/);
});

async function failureOf(client: Client): Promise<string> {
  try {
    await client.aikeys.register('', '', 'vertex', 'a', secret, false);
  } catch (error) {
    assert.ok(error instanceof AgentRouterError);
    return printed(error);
  }
  return assert.fail('it was to fail');
}

test('an answer that repeats the request does not bring its secrets into the error', async (t) => {
  const answers = [
    (all: string) => ({ status: 400, body: JSON.stringify({ code: 'invalid_argument', detail: all, title: all }) }),
    (all: string) => ({ status: 418, body: JSON.stringify({ code: all, errors: [{ field: all, message: all }] }) }),
    (all: string) => ({ status: 500, body: all }),
    (all: string) => ({ status: 200, body: all }),
    (all: string) => ({ status: 200, body: JSON.stringify({ keys: all }) }),
  ];
  for (const answer of answers) {
    const baseUrl = await serve(t, (request, response) => {
      void bodyOf(request).then((body) => {
        const { secret: plain } = JSON.parse(body) as { secret: string };
        const { status, body: text } = answer(`${request.headers.authorization ?? ''} ${plain}`);
        response.writeHead(status, { 'content-type': 'application/json' }).end(text);
      });
    });
    assert.doesNotMatch(await failureOf(new Client({ baseUrl, apiKey })), /MARKED_SECRET/);
  }
});

test('a failing fetch does not bring the request into the error', async () => {
  const fetch = (_: unknown, init?: RequestInit): Promise<Response> => {
    const { authorization } = init?.headers as Record<string, string>;
    const cause = Object.assign(new Error(`sent ${authorization}, ${secret}`), { init });
    return Promise.reject(Object.assign(new TypeError(`no ${authorization}`, { cause }), { init }));
  };
  const client = new Client({ baseUrl: 'https://aikeys.example.com', apiKey, fetch, maxRetries: 0 });
  const text = await failureOf(client);
  assert.match(text, /\[redacted\]/);
  assert.doesNotMatch(text, /MARKED_SECRET/);
});

test('no error of arguments repeats the secret', async () => {
  const client = new Client({ baseUrl: 'https://aikeys.example.com', apiKey });
  const options = { idempotencyKey: 'MARKED_SECRET two' };
  await assert.rejects(client.aikeys.register('', '', 'openai', 'a', secret, false, options), (error) => {
    assert.doesNotMatch(printed(error), /MARKED_SECRET/);
    return true;
  });
});
