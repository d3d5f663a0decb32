// The mock as front-end teams meet it: started by run.sh, called over HTTP and with the packed SDK. Bad requests go to
// the service as well, for the two must find the same faults. AGENTROUTER_TEST_PACKAGE is the SDK's folder, and
// AGENTROUTER_TEST_SERVICE a file with the settings of a running service.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import addFormats from 'ajv-formats';
import Ajv from 'ajv';
import { load, resolve } from './document.mjs';

const require = createRequire(import.meta.url);
const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const { document, operations } = load(here('../../spec/aikeys.yaml'));
const apiKey = 'ak_any';

let base;
let mock;
const printed = [];

before(async () => {
  // A registry that nobody answers for: once installed, no network is needed.
  const nobody = { npm_config_registry: 'http://127.0.0.1:9', npm_config_fetch_retries: '0' };
  const env = { ...process.env, ...nobody, MOCK_PORT: '0' };
  mock = spawn(here('run.sh'), { env, stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise((started, failed) => {
    mock.once('exit', () => failed(new Error('the mock ended')));
    createInterface(mock.stdout).on('line', (line) => {
      printed.push(line);
      base ??= line.match(/on (http:\/\/127\.0\.0\.1:\d+)/)?.[1];
      if (line.startsWith('Ctrl-C')) {
        started();
      }
    });
  });
});

after(async () => {
  const ended = new Promise((done) => mock.once('exit', (code) => done(code)));
  mock.kill('SIGTERM');
  assert.equal(await ended, 0);
});

// What the document calls for, by ajv and not by the code under test.
const ajv = new Ajv({ strict: false, allErrors: true, formats: { password: true } });
addFormats(ajv);
ajv.addSchema(document, 'd');

function requireFits(schema, value) {
  const text = JSON.stringify(schema).replaceAll('"#/', '"d#/');
  const validate = ajv.compile(JSON.parse(text));
  assert.ok(validate(value), ajv.errorsText(validate.errors));
}

test('a value off its schema is noticed', () => {
  const { keys: [key] } = operations.find(({ id }) => id === 'listKeys').answers[0].body;
  requireFits({ $ref: '#/components/schemas/Key' }, key);
  assert.throws(() => requireFits({ $ref: '#/components/schemas/Key' }, { ...key, created_at: 'today' }));
});

/** A request that is in order: the parameters' examples and the first example of the body. */
function goodRequest(operation) {
  const described = document.paths[operation.path][operation.method.toLowerCase()];
  const url = new URL(base);
  const exampleOf = (_, name) => operation.parameters.find((p) => p.name === name).example;
  url.pathname = operation.path.replace(/\{(\w+)\}/g, exampleOf);
  for (const parameter of operation.parameters.filter((p) => p.in === 'query')) {
    url.searchParams.set(parameter.name, parameter.example);
  }
  const init = { method: operation.method, headers: { authorization: `Bearer ${apiKey}` } };
  if (described.requestBody) {
    const { example, examples } = described.requestBody.content['application/json'];
    init.headers['content-type'] = 'application/json';
    init.body = JSON.stringify(example ?? resolve(document, Object.values(examples)[0]).value);
  }
  return { url, init, described };
}

function ask(operation, prefer) {
  const { url, init } = goodRequest(operation);
  return fetch(url, { ...init, headers: { ...init.headers, ...(prefer && { prefer }) } });
}

/** Checks an answer against the document, and returns its body. */
async function requireDocumented(operation, answer, status) {
  assert.equal(answer.status, status);
  const described = document.paths[operation.path][operation.method.toLowerCase()];
  const response = resolve(document, described.responses[status]);
  const [[type, media]] = Object.entries(response.content);
  assert.equal(answer.headers.get('content-type'), type);
  assert.ok(answer.headers.get('x-request-id'));
  const cached = response.headers?.['Cache-Control'];
  assert.equal(answer.headers.get('cache-control'), cached?.example ?? 'no-store');
  for (const [name, reference] of Object.entries(response.headers ?? {})) {
    const { schema } = resolve(document, reference);
    const value = answer.headers.get(name);
    assert.ok(value, `header ${name}`);
    requireFits(schema, schema.type === 'integer' ? Number(value) : value);
  }
  const body = await answer.json();
  requireFits(media.schema, body);
  return { body, media };
}

describe('every operation', () => {
  assert.ok(operations.length > 10);
  for (const operation of operations) {
    const described = document.paths[operation.path][operation.method.toLowerCase()];
    const statuses = Object.keys(described.responses).map(Number);

    test(`${operation.id} answers a good request with its success`, async () => {
      const success = statuses.find((status) => status < 400);
      await requireDocumented(operation, await ask(operation), success);
    });

    for (const status of statuses) {
      test(`${operation.id} answers ${status}, when that is preferred, with each of its examples`, async () => {
        const answer = await ask(operation, `code=${status}`);
        assert.equal(answer.headers.get('preference-applied'), `code=${status}`);
        const { body, media } = await requireDocumented(operation, answer, status);
        const examples = Object.entries(media.examples ?? {}).map(([name, e]) => [name, resolve(document, e).value]);
        assert.deepEqual(body, media.example ?? examples[0][1]);
        for (const [name, value] of examples) {
          const named = await ask(operation, `code=${status}, example=${name}`);
          assert.deepEqual((await requireDocumented(operation, named, status)).body, value);
        }
      });
    }
  }
});

const register = operations.find(({ id }) => id === 'registerKey');

test('an example is found by its name alone', async () => {
  const answer = await ask(register, 'example="not_an_owner"');
  assert.equal(answer.status, 403);
  assert.match((await answer.json()).detail, /owner of the project/);
});

test('a preference that cannot be met is a 400 that says what there is', async () => {
  const cases = { 'code=418': /201, 400/, 'example=none': /not_an_owner/, 'code=404, example=x': /it answers/ };
  for (const [prefer, told] of Object.entries(cases)) {
    const answer = await ask(register, prefer);
    assert.equal(answer.status, 400);
    const { errors } = await answer.json();
    assert.equal(errors[0].field, 'Prefer');
    assert.match(errors[0].message, told);
  }
});

test('preferences of others are ignored', async () => {
  const answer = await ask(register, 'respond-async, wait=10; dynamic=true');
  assert.equal(answer.status, 201);
});

test('nothing of a bad request is repeated or logged', async () => {
  const { url, init } = goodRequest(register);
  const marked = 'sk-MARKED-0123456789';
  for (const body of [{ [marked]: 1 }, { provider: marked.repeat(9), name: ` ${marked}`, secret: [marked] }, marked]) {
    const answer = await fetch(`${url}?${marked}=${marked}`, { ...init, body: JSON.stringify(body) });
    assert.equal(answer.status, 400);
    assert.ok(!(await answer.text()).includes(marked));
  }
  assert.ok(!printed.join('\n').includes(marked));
});

test('a browser on another origin may call, and read what it needs', async () => {
  const { url, init } = goodRequest(register);
  const origin = 'http://localhost:5173';
  const wanted = 'authorization,content-type,idempotency-key,prefer';
  const preflight = await fetch(url, {
    method: 'OPTIONS',
    headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': wanted },
  });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers.get('access-control-allow-headers'), wanted);
  for (const method of ['GET', 'POST', 'PUT', 'DELETE']) {
    assert.ok(preflight.headers.get('access-control-allow-methods').split(', ').includes(method));
  }
  for (const prefer of ['code=201', 'code=400', 'code=503']) {
    const answer = await fetch(url, { ...init, headers: { ...init.headers, origin, prefer } });
    assert.equal(answer.headers.get('access-control-allow-origin'), '*');
    assert.match(answer.headers.get('access-control-expose-headers'), /Retry-After.*X-Request-Id/);
  }
});

test('the curl of the start message works when it is pasted', async () => {
  const { stdout } = await promisify(execFile)('bash', ['-c', printed.find((line) => line.includes('curl '))]);
  assert.equal(JSON.parse(stdout).keys.length, 1);
});

test('so do those of the page', async () => {
  const page = readFileSync(here('../../docs/contract.md'), 'utf8');
  const lines = page.split('\n').filter((line) => line.startsWith('curl ') && line.includes(':4010'));
  const answers = [];
  for (const line of lines) {
    const { stdout } = await promisify(execFile)('bash', ['-c', line.replace('http://127.0.0.1:4010', base)]);
    answers.push(JSON.parse(stdout));
  }
  assert.deepEqual(answers.map(({ keys, code }) => keys?.length ?? code), [1, 'permission_denied']);
});

test('it says so when the port is taken or is none', async () => {
  const port = new URL(base).port;
  const refused = [[port, 1, /is taken/], ['x', 2, /must be a port/], ['65536', 2, /must be a port/]];
  for (const [value, code, said] of refused) {
    const run = promisify(execFile)(here('run.sh'), { env: { ...process.env, MOCK_PORT: value } });
    await assert.rejects(run, (error) => error.code === code && said.test(error.stderr));
  }
});

describe('the TypeScript SDK', () => {
  const sdk = require(process.env.AGENTROUTER_TEST_PACKAGE);
  const client = (headers) => new sdk.Client({ baseUrl: base, apiKey, headers, maxRetries: 0 });

  test('calls all four methods on keys', async () => {
    const { aikeys } = client();
    const { key } = await aikeys.register('', '', 'openai', 'openai-prod', 'sk-EXAMPLE-EXAMPLE-9f3c', false);
    assert.equal(key.state, 'active');
    assert.deepEqual((await aikeys.list('', '')).keys.map(({ id }) => id), [key.id]);
    assert.equal((await aikeys.get('acme', 'chat', key.id)).key.name, 'openai-prod');
    assert.equal((await aikeys.revoke('acme', 'chat', key.id)).receipt.state, 'complete');
  });

  test('gets the failure that its headers prefer', async () => {
    const gone = client({ prefer: 'code=404' }).aikeys.get('', '', 'byok_01M83VVAHV8M2T5K7N9R4W1XYZ');
    await assert.rejects(gone, (error) => error.status === 404 && error.code === 'not_found');
    const bad = client().aikeys.register('', '', 'openai', ' padded', 'sk-EXAMPLE-EXAMPLE-9f3c', false);
    await assert.rejects(bad, (error) => error.status === 400 && error.errors[0].field === 'name');
  });
});

describe('the service and the mock find the same faults', () => {
  const file = readFileSync(process.env.AGENTROUTER_TEST_SERVICE, 'utf8');
  const settings = Object.fromEntries(Array.from(file.matchAll(/(AGENTROUTER_\w+)='?([^'\n]*)'?/g), (m) => m.slice(1)));
  const key = 'byok_01M83VVAHV8M2T5K7N9R4W1XYZ';
  const json = { 'content-type': 'application/json' };
  const post = (body, headers = json) => ({ method: 'POST', headers, body });
  const good = { provider: 'openai', name: 'n', secret: 'sk-EXAMPLE-EXAMPLE-9f3c' };
  const registration = (changes, headers) => post(JSON.stringify({ ...good, ...changes }), { ...json, ...headers });
  const put = (value) => ({ method: 'PUT', headers: json, body: JSON.stringify(value) });
  const requests = {
    'an unknown path': ['/v1/nothing', {}],
    'an unknown method': ['/v1/aikeys', { method: 'PATCH' }],
    'a trailing slash': ['/v1/aikeys/', {}],
    'no credential': ['/v1/aikeys', { headers: { authorization: '' } }],
    'another scheme': ['/v1/aikeys', { headers: { authorization: 'Basic eDp5' } }],
    'a bad id': ['/v1/aikeys/byok_1', {}],
    'an escaped id': [`/v1/aikeys/${key.replace('_', '%5F')}`, {}],
    'a bad customer': ['/v1/customers/a%20b/projects/-/aikeys', {}],
    'an unknown parameter': ['/v1/aikeys?limit=1', {}],
    'a parameter twice': ['/v1/aikeys?page_size=1&page_size=2', {}],
    'a number that is none': ['/v1/aikeys?page_size=x', {}],
    'a number with a nought before it': ['/v1/aikeys?page_size=01', {}],
    'a number that is too large': ['/v1/aikeys?page_size=1001', {}],
    'a number that is too small': ['/v1/aikeys?page_size=0', {}],
    'a value off its list': ['/v1/aikeys?state=gone', {}],
    'a value off its pattern': [`/v1/aikeys/${key}?wait=soon`, { method: 'DELETE' }],
    'an empty value': ['/v1/aikeys?page_token=', {}],
    'a bad escape': ['/v1/aikeys?provider=%zz', {}],
    'a parameter that is missing': ['/v1/customers/-/projects/-/resolve', {}],
    'no body': ['/v1/aikeys', post('')],
    'no content type': ['/v1/aikeys', post(Buffer.from('{}'), {})],
    'another content type': ['/v1/aikeys', post('{}', { 'content-type': 'text/plain' })],
    'a content encoding': ['/v1/aikeys', post('{}', { ...json, 'content-encoding': 'gzip' })],
    'no JSON object': ['/v1/aikeys', post('[]')],
    'a member twice': ['/v1/aikeys', post('{"name": "a", "name": "b"}')],
    'an empty object': ['/v1/aikeys', post('{}')],
    'an unknown member': ['/v1/aikeys', registration({ colour: 'red' })],
    'null': ['/v1/aikeys', registration({ name: null })],
    'another type': ['/v1/aikeys', registration({ user_scope: 'yes' })],
    'an empty text': ['/v1/aikeys', registration({ name: '' })],
    'a text that is too long': ['/v1/aikeys', registration({ name: 'n'.repeat(129) })],
    'a text off its pattern': ['/v1/aikeys', registration({ name: ' n' })],
    'a body that is too large': ['/v1/aikeys', registration({ secret: 's'.repeat(65 << 10) })],
    'an Idempotency-Key off its pattern': ['/v1/aikeys', registration({}, { 'idempotency-key': 'a b' })],
    'a role off its list': ['/v1/customers/-/projects/-/members/bob', put({ role: 'king' })],
    'a policy off its lists': [
      '/v1/customers/-/projects/-/policy',
      put({ user_keys: 'x', user_keys_by_provider: { openai: 'y' } }),
    ],
  };
  const call = async (url, token, [path, init]) => {
    const answer = await fetch(url + path, { ...init, headers: { authorization: `Bearer ${token}`, ...init.headers } });
    const { instance, request_id, ...body } = await answer.json();
    assert.equal(instance, `urn:request:${request_id}`);
    return { status: answer.status, allow: answer.headers.get('allow')?.split(', ').sort(), body };
  };
  for (const [name, request] of Object.entries(requests)) {
    test(name, async () => {
      const real = await call(settings.AGENTROUTER_BASE_URL, settings.AGENTROUTER_API_KEY, request);
      assert.ok(real.status >= 400);
      assert.deepEqual(await call(base, apiKey, request), real);
    });
  }
});
