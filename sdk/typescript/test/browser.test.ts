/** The package as it runs in a page: bundled, in a realm of its own, with nothing of Node's. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createContext, runInContext } from 'node:vm';
import { gzipSync } from 'node:zlib';
import { bundle } from './bundle.js';
import { answering } from './server.js';

const web = {
  AbortController,
  AbortSignal,
  Headers,
  URL,
  URLSearchParams,
  clearTimeout,
  crypto: { getRandomValues: <T extends Uint8Array>(bytes: T) => crypto.getRandomValues(bytes) },
  setTimeout,
};

async function page(globals: object): Promise<(script: string) => unknown> {
  const context = createContext({ ...web, ...globals });
  runInContext(await bundle("export * from 'sdk'", 'iife'), context);
  return (script) => runInContext(`(async () => { ${script} })()`, context) as unknown;
}

test('a page calls the service, and leaves the User-Agent to the browser', async (t) => {
  const { baseUrl, seen } = await answering(t, { keys: [{ name: 'a' }] });
  const sent: RequestInit[] = [];
  const fetch = (input: string, init: RequestInit): Promise<Response> => {
    sent.push(init);
    return globalThis.fetch(input, init);
  };
  const run = await page({ fetch, baseUrl });
  const names = await run(`
    const client = new bundled.Client({ baseUrl, apiKey: 'ak_page' });
    const names = [];
    for await (const key of client.aikeys.iterate('', '')) names.push(key.name);
    return names.join();
  `);
  assert.equal(names, 'a');
  assert.equal(seen[0]?.request.headers.authorization, 'Bearer ak_page');
  assert.deepEqual(Object.keys(sent[0]?.headers ?? {}).sort(), ['accept', 'authorization']);
});

test('a page without options is told what is missing', async () => {
  const run = await page({});
  assert.equal(
    await run('try { new bundled.Client() } catch (e) { return `${e instanceof bundled.ArgumentError} ${e.message}` }'),
    'true no base URL: give baseUrl, or set AGENTROUTER_BASE_URL',
  );
});

test('an environment that may not be read counts as empty', async () => {
  const env = new Proxy({}, { get: () => assert.fail('asked for leave') });
  const run = await page({ process: { env, versions: { deno: '2.5.0' } } });
  assert.match(
    String(await run("try { new bundled.Client({ apiKey: 'ak_page' }) } catch (e) { return e.message }")),
    /no base URL/,
  );
});

test('a page tells a failed fetch of another realm', async () => {
  const run = await page({ fetch: () => Promise.reject(new TypeError('Failed to fetch')) });
  const script = `
    const client = new bundled.Client({ baseUrl: 'https://aikeys.example.com', apiKey: 'ak_page', maxRetries: 0 });
    try { await client.whoAmI() } catch (e) { return e.name + ' ' + e.message }
  `;
  assert.equal(await run(script), 'ConnectionError GET https://aikeys.example.com: Failed to fetch');
});

test('every idempotency key is a UUID, also where the platform shows no crypto', async (t) => {
  const { baseUrl, seen } = await answering(t, { key: {} });
  const script = `
    const client = new bundled.Client({ baseUrl, apiKey: 'ak_page' });
    await client.aikeys.register('', '', 'openai', 'a', 'sk-EXAMPLE', false);
  `;
  await (await page({ fetch, baseUrl }))(script);
  await (await page({ fetch, baseUrl, crypto: undefined }))(script);
  const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  const keys = seen.map(({ request }) => String(request.headers['idempotency-key']));
  assert.equal(new Set(keys).size, 2);
  keys.forEach((key) => {
    assert.match(key, uuid);
  });
});

test('the whole package is under 8 KiB', async (t) => {
  const size = gzipSync(await bundle("export * from 'sdk'", 'esm'), { level: 9 }).length;
  t.diagnostic(`${size} bytes, minified and gzipped`);
  assert.ok(size < 8 * 1024, `${size} bytes`);
});

test('what is not used is left out of a bundle', async () => {
  assert.ok((await bundle("import 'sdk'", 'esm')).length < 10);
  const version = await bundle("import { version } from 'sdk'; console.log(version)", 'esm');
  assert.ok(version.length < 100, version);
  const error = await bundle("import { NotFoundError } from 'sdk'; console.log(NotFoundError)", 'esm');
  assert.doesNotMatch(error, /fetch|AGENTROUTER/);
});

test('the bundle names nothing of Node', async () => {
  assert.doesNotMatch(await bundle("export * from 'sdk'", 'esm'), /node:|require\(|Buffer|import\(/);
});
