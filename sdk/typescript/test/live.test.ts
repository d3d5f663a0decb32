/** All methods, and the examples, against a real server. `test.sh` builds it. */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import * as sdk from '../src/index.js';
import { root, serverProgram, unpacked } from './paths.js';

const folder = mkdtempSync(join(tmpdir(), 'agentrouter-'));
const flags = ['listen', 'dataplane-listen', 'ops-listen', 'gateway-listen'].flatMap((f) => [`--${f}`, '127.0.0.1:0']);
const server = spawn(serverProgram(), ['dev', '--data', folder, ...flags], { stdio: ['ignore', 'pipe', 'pipe'] });
let log = '';
server.stderr.on('data', (text) => (log += String(text)));
const session: Record<string, string> = {};
let owner: sdk.Client;
let member: sdk.Client;

before(
  async () => {
    let ready = false;
    for await (const line of createInterface(server.stdout)) {
      ready = line.includes('is ready');
      if (ready) {
        break;
      }
    }
    assert.ok(ready, log);
    server.stdout.resume();
    const variables = readFileSync(join(folder, 'session.env'), 'utf8').matchAll(/^export (\w+)=(\S+)$/gm);
    for (const [, name, value] of variables) {
      session[name ?? ''] = value ?? '';
    }
    const baseUrl = session['AGENTROUTER_BASE_URL'];
    owner = new sdk.Client({ baseUrl, apiKey: session['AGENTROUTER_API_KEY'] });
    member = new sdk.Client({ baseUrl, apiKey: session['AGENTROUTER_MEMBER_API_KEY'] });
  },
  { timeout: 30_000 },
);

after(async () => {
  const exit = once(server, 'exit');
  server.kill();
  await exit;
  rmSync(folder, { recursive: true });
});

const secret = (n: number): string => `sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-000${n}`;

async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const found: Item[] = [];
  for await (const item of items) {
    found.push(item);
  }
  return found;
}

test('the session and the catalogue', async () => {
  const { customer_id, project_id, user_id, role } = await owner.whoAmI();
  assert.deepEqual({ customer_id, project_id, user_id, role }, {
    customer_id: 'acme',
    project_id: 'chat',
    user_id: 'alice',
    role: 'owner',
  });
  const { providers } = await owner.providers.list();
  assert.ok(providers.some(({ slug }) => slug === 'openai'));
});

test('a key from its registration to its revocation', async () => {
  const { key } = await owner.aikeys.register('acme', 'chat', 'openai', 'life', secret(1), false);
  assert.equal(key.display_suffix, '0001');
  assert.equal(key.user_scope, false);
  assert.deepEqual(await owner.aikeys.get('', '', key.id), { key });
  assert.deepEqual((await owner.aikeys.list('acme', 'chat', { state: 'active' })).keys, [key]);
  const resolved = await member.aikeys.resolve('', '', 'openai');
  assert.equal(resolved.key?.id, key.id);
  assert.equal(resolved.reason, 'project_key');
  const { receipt } = await owner.aikeys.revoke('', '', key.id, { wait: '2s' });
  assert.equal(receipt.revoked_by, 'alice');
  assert.equal((await owner.aikeys.get('', '', key.id)).key.state, 'revoked');
  assert.equal((await owner.aikeys.resolve('', '', 'openai')).key, undefined);
});

test('a repeat with the same idempotency key makes no second key', async () => {
  const options = { idempotencyKey: 'live-1' };
  const first = await owner.aikeys.register('', '', 'openai', 'once', secret(2), true, options);
  const second = await owner.aikeys.register('', '', 'openai', 'once', secret(2), true, options);
  assert.equal(first.key.id, second.key.id);
  await assert.rejects(
    owner.aikeys.register('', '', 'openai', 'other', secret(2), true, options),
    (error) => error instanceof sdk.FailedPreconditionError && error.status === 422,
  );
});

test('iterators give all pages of keys, members and events', async () => {
  for (let n = 0; n < 5; n++) {
    await owner.aikeys.register('', '', 'groq', `page-${n}`, `gsk_EXAMPLEEXAMPLEEXAMPLE000${n}`, false);
  }
  const keys = await all(owner.aikeys.iterate('', '', { provider: 'groq', pageSize: 2 }));
  assert.deepEqual(
    keys.map(({ name }) => name),
    ['page-4', 'page-3', 'page-2', 'page-1', 'page-0'],
  );
  const members = await all(owner.members.iterate('', '', { pageSize: 1 }));
  assert.deepEqual(members, (await owner.members.list('', '')).members);
  const events = await all(owner.events.iterate('', '', { pageSize: 3 }));
  assert.ok(events.length > 5);
  assert.equal((await owner.events.list('', '', { pageSize: 1 })).events[0]?.id, events[0]?.id);
});

test('the policy and the members', async () => {
  await owner.policy.set('', '', 'allow', { groq: 'forbid' }, 'next_key');
  const { policy } = await member.policy.get('', '');
  assert.equal(policy.on_bad_key, 'next_key');
  assert.deepEqual(policy.user_keys_by_provider, { groq: 'forbid' });
  assert.equal((await owner.policy.set('', '')).policy.on_bad_key, 'fail');
  assert.equal((await owner.members.set('', '', 'carol', 'member')).member.role, 'member');
  assert.equal((await owner.members.remove('', '', 'carol')).suspended_keys, 0);
});

test('each refusal is an error of its own class', async () => {
  const absent = 'byok_01M83VVAHV8M2T5K7N9R4W1XYZ';
  const register = (client: sdk.Client, name: string, provider = 'openai'): Promise<unknown> =>
    client.aikeys.register('', '', provider, name, secret(3), false);
  const stranger = new sdk.Client({ baseUrl: session['AGENTROUTER_BASE_URL'], apiKey: 'ak_unknown' });
  await register(owner, 'taken');
  await assert.rejects(register(owner, 'taken'), sdk.AlreadyExistsError);
  await assert.rejects(register(member, 'mine'), sdk.PermissionDeniedError);
  await assert.rejects(owner.aikeys.get('', '', absent), sdk.NotFoundError);
  await assert.rejects(owner.members.remove('', '', 'alice'), sdk.FailedPreconditionError);
  await assert.rejects(stranger.whoAmI(), sdk.UnauthenticatedError);
  await assert.rejects(register(owner, 'a', 'no_such'), (error) => {
    assert.ok(error instanceof sdk.InvalidArgumentError);
    assert.deepEqual(error.errors.map(({ field }) => field), ['provider']);
    assert.match(error.requestId ?? '', /^[0-9A-Z]{26}$/);
    return true;
  });
});

for (const name of readdirSync(join(root, 'examples'))) {
  test(`the example ${name} runs from the tarball`, () => {
    const work = join(folder, name);
    cpSync(join(root, 'examples', name), work, { recursive: true });
    cpSync(unpacked, join(work, 'third_party', basename(unpacked)), { recursive: true });
    const env = { ...process.env, ...session };
    const install = ['install', '--omit=dev', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund'];
    execFileSync('npm', [...install, '--no-package-lock', '--loglevel=error'], { cwd: work, env });
    symlinkSync(join(root, 'node_modules/tsx'), join(work, 'node_modules/tsx'));
    const options = { cwd: work, env, encoding: 'utf8' } as const;
    const printed = execFileSync(process.execPath, ['--import', 'tsx', 'index.ts'], options);
    assert.match(printed, name === 'revoke' ? /state: '(complete|pending)'/ : /id: 'byok_\w{26}'/);
  });
}
