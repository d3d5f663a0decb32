import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  ArgumentError,
  type Attempt,
  Client,
  type ClientOptions,
  ConnectionError,
  NotFoundError,
  type RawResponse,
  ResponseError,
  TimeoutError,
  UnavailableError,
  version,
} from '../src/index.js';
import { answering, key, serve } from './server.js';

const apiKey = 'ak_test_key';

/** Sets variables of the environment until the test ends. */
function setEnvironment(t: { after: (end: () => void) => void }, variables: Record<string, string | undefined>): void {
  for (const [name, value] of Object.entries(variables)) {
    const before = process.env[name];
    const put = (text: string | undefined): void => {
      if (text === undefined) {
        Reflect.deleteProperty(process.env, name);
      } else {
        process.env[name] = text;
      }
    };
    put(value);
    t.after(() => {
      put(before);
    });
  }
}

test('options that are missing or wrong are refused at once, and not repeated', (t) => {
  setEnvironment(t, { AGENTROUTER_BASE_URL: undefined, AGENTROUTER_API_KEY: undefined });
  const baseUrl = 'https://aikeys.example.com';
  const cases: [ClientOptions, RegExp][] = [
    [{ apiKey }, /no base URL.*AGENTROUTER_BASE_URL/],
    [{ baseUrl: '', apiKey }, /no base URL/],
    [{ baseUrl }, /no API key.*AGENTROUTER_API_KEY/],
    [{ baseUrl, apiKey: '' }, /no API key/],
    [{ baseUrl: 'marked-secret', apiKey }, /not a URL/],
    [{ baseUrl: 'ftp://marked-secret', apiKey }, /https:\/\//],
    [{ baseUrl: 'https://u:marked-secret@aikeys.example.com', apiKey }, /no user, password/],
    [{ baseUrl: 'https://aikeys.example.com?q=marked-secret', apiKey }, /query/],
    [{ baseUrl: 'http://aikeys.example.com', apiKey }, /allowInsecureHttp/],
    [{ baseUrl: 'http://127.example.com', apiKey }, /allowInsecureHttp/],
    [{ baseUrl: 'http://localhost.example.com', apiKey }, /allowInsecureHttp/],
    [{ baseUrl, apiKey: 'marked-secret\n' }, /visible ASCII/],
    [{ baseUrl, apiKey: 'marked-secret é' }, /visible ASCII/],
    [{ baseUrl, apiKey, headers: { 'x-a': 'marked-secret\r\nx-b: c' } }, /"x-a"/],
    [{ baseUrl, apiKey, headers: { 'x a': 'marked-secret' } }, /"x a"/],
    [{ baseUrl, apiKey, timeoutMs: 0 }, /timeoutMs/],
    [{ baseUrl, apiKey, timeoutMs: Number.NaN }, /timeoutMs/],
    [{ baseUrl, apiKey, maxRetries: -1 }, /maxRetries/],
  ];
  for (const [options, message] of cases) {
    assert.throws(
      () => new Client(options),
      (error) => {
        assert.ok(error instanceof ArgumentError);
        assert.match(error.message, message);
        assert.doesNotMatch(`${error.stack ?? ''}${error.message}`, /marked-secret/);
        return true;
      },
    );
  }
});

test('plain HTTP is for this machine, or for those who ask for it', () => {
  const hosts = ['localhost', 'api.localhost', '127.0.0.1:8080', '127.1.2.3', '127.1', '[::1]:8080'];
  for (const host of hosts) {
    assert.ok(new Client({ baseUrl: `http://${host}`, apiKey }));
  }
  assert.ok(new Client({ baseUrl: 'http://aikeys.example.com', apiKey, allowInsecureHttp: true }));
});

test('the environment stands in for options, which win over it', async (t) => {
  const { baseUrl, seen } = await answering(t, { user_id: 'alice' });
  setEnvironment(t, { AGENTROUTER_BASE_URL: baseUrl, AGENTROUTER_API_KEY: 'ak_of_environment' });
  await new Client().whoAmI();
  await new Client({ baseUrl: undefined, apiKey: undefined }).whoAmI();
  setEnvironment(t, { AGENTROUTER_BASE_URL: 'https://aikeys.invalid' });
  await new Client({ baseUrl, apiKey }).whoAmI();
  assert.deepEqual(
    seen.map(({ request }) => request.headers.authorization),
    ['Bearer ak_of_environment', 'Bearer ak_of_environment', 'Bearer ak_test_key'],
  );
});

test('a base URL may have a path, and slashes at its end', async (t) => {
  const { baseUrl, seen } = await answering(t, { user_id: 'alice' });
  for (const end of ['', '/', '//', '/prefix', '/prefix/']) {
    await new Client({ baseUrl: baseUrl + end, apiKey }).whoAmI();
  }
  assert.deepEqual(
    seen.map(({ request }) => request.url),
    ['/v1/whoami', '/v1/whoami', '/v1/whoami', '/prefix/v1/whoami', '/prefix/v1/whoami'],
  );
});

test('requests say which package sends them, and carry the headers asked for, but one Authorization', async (t) => {
  const { baseUrl, seen } = await answering(t, { user_id: 'alice' });
  await new Client({ baseUrl, apiKey, headers: { 'X-Team': 'a', AUTHORIZATION: 'Bearer other' } }).whoAmI();
  const headers = seen[0]?.request.headers;
  assert.equal(headers?.['user-agent'], `agentrouter-typescript/${version} (node ${process.versions.node})`);
  assert.equal(headers['x-team'], 'a');
  assert.equal(headers.authorization, `Bearer ${apiKey}`);
});

test('a fetch of one’s own is used, and called without a receiver', async () => {
  const urls: string[] = [];
  async function fetch(this: unknown, input: string | URL | Request): Promise<Response> {
    assert.equal(this, undefined);
    urls.push(input as string);
    return Promise.resolve(Response.json({ user_id: 'alice' }));
  }
  await new Client({ baseUrl: 'https://aikeys.example.com', apiKey, fetch }).whoAmI();
  assert.deepEqual(urls, ['https://aikeys.example.com/v1/whoami']);
});

test('an attempt that takes too long ends, and so does an answer that stalls', async (t) => {
  let requests = 0; // as sent: an attempt may end before it has arrived
  const baseUrl = await serve(t, (request, response) => {
    if (request.url === '/v1/providers') {
      response.writeHead(200, { 'content-length': 100 }).write('{');
    }
  });
  const counted: typeof fetch = (...args) => {
    requests++;
    return fetch(...args);
  };
  const client = new Client({ baseUrl, apiKey, timeoutMs: 40, maxRetries: 1, fetch: counted });
  await assert.rejects(client.whoAmI(), (error) => {
    assert.ok(error instanceof TimeoutError && error instanceof ConnectionError);
    assert.match(error.message, /no answer within 40 ms/);
    assert.equal(error.name, 'TimeoutError');
    return true;
  });
  assert.equal(requests, 2);
  await assert.rejects(client.providers.list({ timeoutMs: 20, maxRetries: 0 }), TimeoutError);
  assert.equal(requests, 3);
});

test('a revocation may take as long as it waits, on top of the timeout', async (t) => {
  const baseUrl = await serve(t, (_, response) => {
    setTimeout(() => response.end('{"receipt": {"state": "complete"}}'), 150);
  });
  const client = new Client({ baseUrl, apiKey, timeoutMs: 50, maxRetries: 0 });
  await assert.rejects(client.aikeys.revoke('', '', key.id), TimeoutError);
  for (const wait of [10_000, '10s', '10000ms']) {
    assert.equal((await client.aikeys.revoke('', '', key.id, { wait })).receipt.state, 'complete');
  }
});

test('a signal ends a call before it begins, while it runs, and while it waits for its next attempt', async (t) => {
  let requests = 0;
  let onRequest = (): void => undefined;
  const baseUrl = await serve(t, (request, response) => {
    requests++;
    if (request.url === '/v1/providers') {
      response.writeHead(503, { 'retry-after': '20' }).end();
    }
    response.on('finish', () => {
      onRequest();
    });
    if (request.url !== '/v1/providers') {
      onRequest();
    }
  });
  const client = new Client({ baseUrl, apiKey });
  const reason = new Error('enough');
  await assert.rejects(client.whoAmI({ signal: AbortSignal.abort(reason) }), reason);
  assert.equal(requests, 0);
  for (const call of ['whoAmI', 'providers'] as const) {
    const controller = new AbortController();
    onRequest = () => {
      setTimeout(() => {
        controller.abort(reason);
      }, 30);
    };
    const { signal } = controller;
    await assert.rejects(call === 'whoAmI' ? client.whoAmI({ signal }) : client.providers.list({ signal }), reason);
  }
  assert.equal(requests, 2);
});

test('a call may have fewer retries than its client', async (t) => {
  const { baseUrl, seen } = await answering(t, {}, 503);
  const client = new Client({ baseUrl, apiKey, maxRetries: 1 });
  await assert.rejects(client.whoAmI(), UnavailableError);
  assert.equal(seen.length, 2);
  await assert.rejects(client.whoAmI({ maxRetries: 0 }), UnavailableError);
  assert.equal(seen.length, 3);
});

test('an iterator asks for no page that nobody wants', async (t) => {
  const { baseUrl, seen } = await answering(t, { keys: [key, key], next_page_token: 'more' });
  const names: string[] = [];
  for await (const { name } of new Client({ baseUrl, apiKey }).aikeys.iterate('', '')) {
    names.push(name);
    if (names.length === 3) {
      break;
    }
  }
  assert.equal(names.length, 3);
  assert.equal(seen.length, 2);
});

test('each register has an idempotency key of its own, and a wrong one is refused', async (t) => {
  const { baseUrl, seen } = await answering(t, { key });
  const client = new Client({ baseUrl, apiKey });
  for (let i = 0; i < 20; i++) {
    await client.aikeys.register('', '', 'openai', 'a', 'sk-EXAMPLE', false);
  }
  assert.equal(new Set(seen.map(({ request }) => request.headers['idempotency-key'])).size, 20);
  const options = { idempotencyKey: 'two words' };
  await assert.rejects(client.aikeys.register('', '', 'openai', 'a', 'sk-EXAMPLE', false, options), ArgumentError);
});

test('a policy leaves out what returns to its default', async (t) => {
  const { baseUrl, seen } = await answering(t, { policy: {} });
  await new Client({ baseUrl, apiKey }).policy.set('', '', undefined, undefined, 'next_key');
  assert.deepEqual(JSON.parse(seen[0]?.body ?? ''), { on_bad_key: 'next_key' });
});

test('a redirect that a browser hides is an error too', async () => {
  const hidden = { status: 0, headers: new Headers(), text: () => Promise.resolve('') } as Response;
  const client = new Client({ baseUrl: 'https://aikeys.example.com', apiKey, fetch: () => Promise.resolve(hidden) });
  await assert.rejects(client.whoAmI(), (error) => error instanceof ResponseError && error.status === 0);
});

test('errors tell what went wrong', async (t) => {
  const { baseUrl } = await answering(
    t,
    { code: 'not_found', detail: 'There is no such thing.', request_id: '01M83VVAHQQW2E4R6T8Y0A1S3D', extra: [1] },
    404,
  );
  await assert.rejects(new Client({ baseUrl, apiKey }).aikeys.get('', '', key.id), (error) => {
    assert.ok(error instanceof NotFoundError);
    assert.equal(error.message, '404 not_found: There is no such thing. (request 01M83VVAHQQW2E4R6T8Y0A1S3D)');
    assert.match(String(error), /^NotFoundError: 404/);
    assert.deepEqual(error.problem?.['extra'], [1]);
    return true;
  });
  const refused = new Client({ baseUrl: 'http://127.0.0.1:1', apiKey, maxRetries: 0 });
  await assert.rejects(refused.whoAmI(), { name: 'ConnectionError', message: /^GET http:\/\/127.0.0.1:1: ./ });
});

test('register takes its arguments by name', async (t) => {
  const { baseUrl, seen } = await answering(t, { key });
  const { aikeys } = new Client({ baseUrl, apiKey });
  const options = { idempotencyKey: 'once' };
  await aikeys.register({ provider: 'openai', name: 'openai-prod', secret: 'sk-example', projectId: 'chat' }, options);
  await aikeys.register('', 'chat', 'openai', 'openai-prod', 'sk-example', false, options);
  const [byName, byPosition] = seen.map(({ request, body }) => [request.url, request.headers['idempotency-key'], body]);
  assert.equal(byName?.[0], '/v1/customers/-/projects/chat/aikeys');
  assert.deepEqual(byName, byPosition);
});

test('an API key that changes is asked for at each attempt', async (t) => {
  const { baseUrl, seen } = await answering(t, {}, 503);
  let asked = 0;
  const client = new Client({ baseUrl, apiKey: () => Promise.resolve(`ak_${++asked}`), maxRetries: 1 });
  await assert.rejects(client.whoAmI(), UnavailableError);
  assert.deepEqual(
    seen.map(({ request }) => request.headers.authorization),
    ['Bearer ak_1', 'Bearer ak_2'],
  );
  await assert.rejects(
    new Client({ baseUrl, apiKey: () => 'marked secret' }).whoAmI(),
    (error) => error instanceof ArgumentError && !error.message.includes('marked'),
  );
  await assert.rejects(new Client({ baseUrl, apiKey: () => Promise.reject(new Error('log in')) }).whoAmI(), /log in/);
  assert.equal(seen.length, 2);
});

test('a call shows its responses, and each attempt can be logged', async (t) => {
  const seen: (string | undefined)[] = [];
  const baseUrl = await serve(t, (request, response) => {
    seen.push(String(request.headers['x-tenant']), request.headers.authorization);
    const status = seen.length > 2 ? 200 : 503;
    response.writeHead(status, { 'x-request-id': `req-${status}`, 'retry-after': '0' });
    response.end('{"user_id":"alice"}');
  });
  const attempts: Attempt[] = [];
  const responses: RawResponse[] = [];
  const client = new Client({ baseUrl, apiKey, log: (attempt) => attempts.push(attempt) });
  const headers = { 'X-Tenant': 'acme', Authorization: 'mine' };
  await client.whoAmI({ headers, onResponse: (response) => responses.push(response) });
  assert.deepEqual(
    attempts.map(({ method, path, status, requestId }) => [method, path, status, requestId]),
    [
      ['GET', '/v1/whoami', 503, 'req-503'],
      ['GET', '/v1/whoami', 200, 'req-200'],
    ],
  );
  assert.deepEqual(
    responses.map(({ status, requestId, body }) => [status, requestId, body]),
    [
      [503, 'req-503', '{"user_id":"alice"}'],
      [200, 'req-200', '{"user_id":"alice"}'],
    ],
  );
  assert.deepEqual(seen.slice(0, 2), ['acme', `Bearer ${apiKey}`]);
  await assert.rejects(client.whoAmI({ headers: { 'x a': '1' } }), ArgumentError);
});

test('an attempt without a response is logged with its reason', async () => {
  const attempts: Attempt[] = [];
  const fetch = () => Promise.reject(new Error(`no route for ${apiKey}`));
  const log = (attempt: Attempt) => attempts.push(attempt);
  const client = new Client({ baseUrl: 'http://127.0.0.1:9', apiKey, fetch, maxRetries: 0, log });
  await assert.rejects(client.whoAmI(), ConnectionError);
  assert.match(attempts[0]?.error ?? '', /no route for \[redacted\]/);
});
