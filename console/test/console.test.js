// What the console does in a real browser. browser.sh starts the service and the mock, and says where they are.
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

const { BASE_URL: base, GATEWAY_URL: gateway, OWNER_KEY: owner, MEMBER_KEY: member, MOCK_URL: mock, ISSUER_URL: issuer, SIGN_IN_URL: home, SHOTS: shots } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const patience = 20_000;

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
});
after(() => browser.close());

/** Calls the API as the owner. */
async function call(method, path, body, as = owner) {
  const reply = await fetch(base + path, { method, headers: { Authorization: `Bearer ${as}`, 'Content-Type': 'application/json' }, body: body && JSON.stringify(body) });
  assert.ok(reply.ok, `${method} ${path}: ${reply.status}`);
  return reply.json();
}

let made = 0;
/** A made-up secret of OpenAI's. It ends with four digits that no other one ends with. */
const secretOf = () => `sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-${String(++made).padStart(4, '0')}`;
const register = async (name, extra = {}, as = owner) => (await call('POST', '/v1/aikeys', { provider: 'openai', name, secret: secretOf(), ...extra }, as)).key;

/** Sends a request through the gateway, so that it holds the key. */
async function infer(as = owner) {
  const reply = await fetch(`${gateway}/openai/chat/completions`, {
    method: 'POST', headers: { Authorization: `Bearer ${as}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'Hello' }] }),
  });
  assert.equal(reply.status, 200);
  await reply.text();
}

/** A browser of its own. `faults` gathers what no page may have: messages, errors, broken policies, requests to others. */
async function visitor({ scheme = 'light', width = 1280, height = 800, expected = [], others = [base] } = {}) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width, height }, acceptDownloads: true });
  context.setDefaultTimeout(patience);
  const faults = [];
  const heard = [];
  const sent = [];
  const watch = (page) => {
    page.on('console', (m) => { heard.push(m.text()); if (!/status of (4|5)\d\d|ERR_INTERNET_DISCONNECTED/.test(m.text())) faults.push(`console: ${m.text()}`); });
    page.on('pageerror', (e) => faults.push(`error: ${e.message}`));
    page.on('request', (r) => { sent.push(r); if (!others.some((o) => r.url().startsWith(`${o}/`)) && !r.url().startsWith('blob:')) faults.push(`asks ${r.url()}`); });
    page.on('response', (r) => r.status() >= 400 && !expected.includes(r.status()) && faults.push(`${r.status()} for ${r.url()}`));
  };
  context.on('page', watch);
  const page = await context.newPage();
  return { context, page, faults, heard, sent, close: async () => { await context.close(); assert.deepEqual(faults, []); } };
}

async function signIn(page, { as = owner, path = '/keys' } = {}) {
  await page.goto(`${base}/console${path}`);
  await page.getByLabel('API key or session token').fill(as);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('button', { name: 'Sign out', exact: true }).waitFor();
}

/** Goes to a path as a link does: a reload would end the session, which lives in memory. */
async function visit(page, path) {
  await page.evaluate((to) => { history.pushState(null, '', `/console${to}`); dispatchEvent(new PopStateEvent('popstate')); }, path);
}

const settled = (page) => page.waitForFunction(() => !document.querySelector('.skeleton'), undefined, { timeout: patience });

async function accessible(page, what) {
  await page.evaluate(() => Promise.all(document.getAnimations().filter((a) => a.effect.getTiming().iterations !== Infinity).map((a) => a.finished)));
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(overflow, 0, `${what}: nothing is wider than the window`);
  if (!await page.evaluate(() => 'axe' in window)) await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run({ resultTypes: ['violations'] }));
  assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(' ')}`), [], what);
}

const pages = { keys: '/keys', add: '/keys?add=key', audit: '/audit', denied: '/audit?outcome=denied', resolve: '/resolve?provider=openai', policy: '/policy', members: '/members', remove: '/members?remove=bob', usage: '/usage', planes: '/planes', access: '/access', missing: '/nothing' };

test('every page is accessible and asks nobody else, in each theme and at each width', async () => {
  const key = await register('look');
  await infer();
  const v = await visitor();
  await v.page.goto(`${base}/console`);
  await accessible(v.page, 'sign in');
  await signIn(v.page);
  for (const [name, path] of Object.entries({ ...pages, key: `/keys/${key.id}` })) {
    await visit(v.page, path);
    await settled(v.page);
    for (const [scheme, width] of [['light', 1280], ['dark', 1280], ['dark', 390], ['light', 320]]) {
      await v.page.emulateMedia({ colorScheme: scheme });
      await v.page.setViewportSize({ width, height: 800 });
      await accessible(v.page, `${name}, ${scheme}, ${width} pixels wide`);
      if (shots) await v.page.screenshot({ path: join(shots, `${name}-${scheme}-${width}.png`) });
    }
    await v.page.keyboard.press('Escape');
  }
  await call('DELETE', `/v1/aikeys/${key.id}`);
  await v.close();
});

test('a key of a provider is not sent as a credential, and a wrong API key says what to do', async () => {
  const v = await visitor({ expected: [401] });
  await v.page.goto(`${base}/console/audit?outcome=denied`);
  await v.page.getByLabel('API key or session token').fill('sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE');
  await v.page.getByRole('button', { name: 'Sign in' }).click();
  await v.page.getByText('Nothing was sent').waitFor();
  await v.page.getByLabel('API key or session token').fill(`${owner.slice(0, -1)}${owner.endsWith('a') ? 'b' : 'a'}`);
  await v.page.getByRole('button', { name: 'Sign in' }).click();
  await v.page.getByText('its checksum does not match').waitFor();
  assert.deepEqual(v.sent.map((r) => new URL(r.url()).pathname).filter((path) => path.startsWith('/v1/') && path !== '/v1/sign-in'), []);
  await v.page.getByLabel('API key or session token').fill('eyJhbGciOiJub25lIn0.eyJzdWIiOiJib2IifQ.c2ln');
  await v.page.getByRole('button', { name: 'Sign in' }).click();
  await v.page.getByText('The service does not accept it').waitFor();
  await v.page.getByLabel('API key or session token').fill(owner);
  await v.page.keyboard.press('Enter');
  await v.page.getByRole('heading', { name: 'Audit' }).waitFor();
  assert.equal(new URL(v.page.url()).search, '?outcome=denied', 'the page that was asked for');
  await v.close();
});

/** Where the issuer's token endpoint is: at another host, as Google's is. */
const tokenServer = issuer.replace('127.0.0.1', 'localhost');

test('a user signs in at the issuer, is where they were, and no token stays in the tab', async () => {
  const v = await visitor({ others: [home, issuer, tokenServer] });
  await v.page.goto(`${home}/console/keys?state=revoked`);
  await v.page.getByRole('button', { name: /^Continue with/ }).waitFor();
  await accessible(v.page, 'the sign-in with an issuer');
  if (shots) await v.page.screenshot({ path: join(shots, 'issuer.png') });
  await v.page.getByRole('button', { name: `Continue with ${new URL(issuer).host}` }).click();
  await v.page.getByRole('heading', { name: 'Keys', exact: true }).waitFor();
  await v.page.getByRole('link', { name: 'alice (owner)' }).waitFor();
  assert.equal(v.page.url(), `${home}/console/keys?state=revoked`);
  const kept = await v.page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, history.state, document.documentElement.outerHTML]));
  assert.doesNotMatch(kept, /eyJ|verifier/);
  const asked = v.sent.filter((r) => r.url().startsWith(`${tokenServer}/`) && r.method() === 'POST');
  assert.equal(asked.length, 1, 'one exchange');
  assert.ok(!v.sent.some((r) => r.url().includes('eyJ')), 'no token in a URL');
  await v.close();
});

test('an answer that nobody asked for signs nobody in, and a refusal is said', async () => {
  const v = await visitor({ others: [home, issuer] });
  await v.page.goto(`${home}/console?code=stolen&state=guessed`);
  await v.page.getByRole('button', { name: /^Continue with/ }).waitFor();
  assert.equal(v.page.url(), `${home}/console`);
  await v.page.route(`${issuer}/auth?*`, (route) => route.continue({ url: `${route.request().url()}&login_hint=deny` }));
  await v.page.getByRole('button', { name: /^Continue with/ }).click();
  await v.page.getByText('The sign-in was refused.').waitFor();
  assert.equal(v.sent.filter((r) => r.method() === 'POST').length, 0);
  await v.close();
});

test('a key is added and revoked by keyboard alone, and its secret stays nowhere', async () => {
  const v = await visitor();
  const { page } = v;
  let release;
  const held = new Promise((resolve) => { release = resolve; });
  await page.route('**/v1/providers', async (route) => { await held; await route.continue(); });
  await signIn(page);
  await page.getByRole('button', { name: /^Add key/ }).first().waitFor();
  const secret = secretOf();
  await page.keyboard.press('a');
  const dialog = page.getByRole('dialog', { name: 'Add key' });
  await dialog.waitFor();
  release(); // the field has the focus although it comes after the dialog
  await dialog.locator('input[name=provider-key]:focus').waitFor();
  await page.keyboard.insertText(secret);
  await page.waitForFunction(() => document.querySelector('dialog select').value === 'openai');
  await dialog.getByText('It will serve the project’s requests to OpenAI at once.').or(dialog.getByText('It takes over the project’s requests')).waitFor();
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: /^openai-prod/ }).waitFor();
  await infer();
  await page.keyboard.press('r');
  await page.getByRole('dialog', { name: /^Revoke/ }).locator('input:focus').waitFor();
  await page.keyboard.insertText(secret.slice(-4));
  await page.keyboard.press('Enter');
  await page.getByText('The data plane has confirmed').first().waitFor();
  const kept = await page.evaluate(() => JSON.stringify([document.documentElement.outerHTML, { ...localStorage }, { ...sessionStorage }, document.cookie, location.href, performance.getEntries().map((e) => e.name),
    [...document.querySelectorAll('input, textarea')].map((i) => i.value)]));
  for (const hidden of [secret, owner]) {
    assert.ok(!kept.includes(hidden), 'in the page');
    assert.ok(!v.heard.join().includes(hidden), 'in the console');
    assert.ok(!v.sent.some((r) => r.url().includes(hidden)), 'in a URL');
  }
  assert.equal(v.sent.filter((r) => r.postData()?.includes(secret)).length, 1, 'it is sent once');
  assert.deepEqual(await v.context.cookies(), []);
  await v.close();
});

test('a secret that was refused is not in the page, and can be sent again or replaced', async () => {
  const v = await visitor({ expected: [409] });
  const { page } = v;
  await register('taken');
  await signIn(page, { path: '/keys?add=key' });
  const dialog = page.getByRole('dialog', { name: 'Add key' });
  const secret = secretOf();
  await dialog.getByLabel('The provider’s key').fill(secret);
  await dialog.getByRole('textbox', { name: 'Name' }).fill('taken');
  await dialog.getByText('An active key has this name already.').waitFor();
  await dialog.getByRole('button', { name: 'Add key' }).click();
  await dialog.getByText('The name is taken by an active key.').waitFor();
  assert.ok(!(await page.evaluate(() => document.documentElement.outerHTML + [...document.querySelectorAll('input')].map((i) => i.value))).includes(secret));
  await dialog.getByRole('textbox', { name: 'Name' }).fill('free');
  await dialog.getByRole('button', { name: 'Add key' }).click();
  await page.getByRole('heading', { name: /^free/ }).waitFor();
  await v.close();
});

test('a revocation with a gateway that hangs is pending, then complete by its lease', async () => {
  const key = await register('hangs');
  await infer();
  const gatewayPid = Number(execFileSync('pgrep', ['-P', process.env.SERVICE_PID, '-f', 'aikeys-gateway']).toString());
  const v = await visitor();
  await signIn(v.page, { path: `/keys/${key.id}` });
  // The page reads no newer state before the pending one has been seen, however slow the machine is.
  let release;
  const seen = new Promise((resolve) => { release = resolve; });
  await v.page.route(/\/aikeys\/byok_/, async (route) => {
    if (route.request().method() === 'GET') await seen;
    await route.continue();
  });
  process.kill(gatewayPid, 'SIGSTOP');
  try {
    await v.page.getByRole('button', { name: /^Revoke/ }).click();
    await v.page.getByLabel(/^Type/).fill(key.display_suffix);
    await v.page.getByRole('dialog').getByRole('button', { name: 'Revoke', exact: true }).click();
    await v.page.getByText('no answer yet; its lease ends in').waitFor();
    if (shots) await v.page.screenshot({ path: join(shots, 'receipt-pending.png') });
    release();
    await v.page.getByText('its lease has ended').waitFor();
    await v.page.locator('.panel', { hasText: 'Receipt' }).getByText(/^● complete$/).waitFor();
  } finally {
    process.kill(gatewayPid, 'SIGCONT');
  }
  await v.close();
});

test('a session that ends asks for a sign-in where one is, and goes on', async () => {
  const admin = (...words) => execFileSync(process.env.AIKEYSD, ['admin', 'token', ...words], {
    env: { ...process.env, AIKEYS_DATABASE_URL: process.env.DATABASE }, stdio: ['ignore', 'pipe', 'ignore'],
  }).toString().trim();
  const token = admin('create', '--customer', 'acme', '--project', 'chat', '--user', 'bob');
  const v = await visitor({ expected: [401] });
  await signIn(v.page, { as: token, path: '/audit?actor=alice' });
  await settled(v.page);
  admin('revoke', '--customer', 'acme', '--project', 'chat', '--id', token.split('_')[1]);
  await v.page.getByLabel('Outcome').selectOption('allowed');
  const dialog = v.page.getByRole('dialog', { name: 'Your session has ended' });
  await dialog.waitFor();
  await dialog.getByLabel('API key or session token').fill(member);
  await dialog.getByRole('button', { name: 'Sign in' }).click();
  await dialog.waitFor({ state: 'detached' });
  assert.equal(new URL(v.page.url()).search, '?actor=alice&outcome=allowed');
  await v.page.locator('.trail li').first().waitFor();
  await v.close();
});

test('of two tabs that change a key, the second one is shown what the first one did', async () => {
  const key = await register('both');
  const v = await visitor({ expected: [412] });
  const other = await v.context.newPage();
  for (const page of [v.page, other]) {
    await signIn(page, { path: `/keys/${key.id}` });
    await page.getByRole('button', { name: 'Rename…' }).click();
  }
  await v.page.getByRole('textbox', { name: 'Name' }).fill('first');
  await v.page.getByRole('button', { name: 'Rename', exact: true }).click();
  await v.page.getByRole('heading', { name: /^first/ }).waitFor();
  await other.getByRole('textbox', { name: 'Name' }).fill('second');
  await other.getByRole('button', { name: 'Rename', exact: true }).click();
  await other.getByText('Someone else has changed this key').waitFor();
  await other.getByRole('heading', { name: /^first/, includeHidden: true }).waitFor();
  await other.getByRole('button', { name: 'Rename', exact: true }).click();
  await other.getByRole('heading', { name: /^second/ }).waitFor();
  await v.close();
});

test('without a connection the page keeps what it had, says since when, and recovers by itself', async () => {
  const v = await visitor();
  await signIn(v.page);
  await settled(v.page);
  await v.context.setOffline(true);
  await v.page.getByRole('link', { name: 'Audit' }).click();
  await v.page.getByText('The service does not answer.').first().waitFor();
  await v.page.getByRole('link', { name: 'Keys', exact: true }).first().click();
  await v.page.locator('.keys').first().waitFor();
  await v.context.setOffline(false);
  await v.page.locator('.notice', { hasText: 'does not answer' }).waitFor({ state: 'detached' });
  await v.close();
});

test('a member sees what they may do, and not what they may not', async () => {
  const key = await register('for-bob');
  const v = await visitor({ expected: [403] });
  await signIn(v.page, { as: member });
  await settled(v.page);
  assert.equal(await v.page.getByRole('button', { name: 'Revoke for-bob' }).count(), 0);
  await visit(v.page, `/keys/${key.id}`);
  await v.page.getByRole('heading', { name: /^for-bob/ }).waitFor();
  assert.equal(await v.page.getByRole('button', { name: /Disable|Revoke|Rename/ }).count(), 0);
  await v.page.getByRole('link', { name: 'Keys', exact: true }).first().click();
  await v.page.getByRole('button', { name: /^Add key/ }).click();
  assert.ok(await v.page.getByRole('radio', { name: /whole project/ }).isDisabled());
  await v.close();
});

test('the audit trail is filtered by the URL and exported whole', async () => {
  await register('audited');
  const v = await visitor();
  await signIn(v.page, { path: '/audit?type=key.registered&actor=alice' });
  await v.page.locator('.trail li').first().waitFor();
  for (const text of await v.page.locator('.trail .row').allTextContents()) assert.match(text, /^alice registered/);
  const [file] = await Promise.all([v.page.waitForEvent('download'), v.page.getByRole('button', { name: 'Export CSV' }).click()]);
  const lines = readFileSync(await file.path(), 'utf8').trim().split('\r\n');
  assert.match(lines[0], /^"at","type","outcome"/);
  assert.ok(lines.slice(1).every((line) => line.includes('"key.registered"')));
  await v.page.locator('.trail .row').first().click();
  await v.page.getByRole('dialog', { name: 'Entry' }).getByText('"key.registered"').waitFor();
  assert.match(v.page.url(), /event=evt_/);
  await v.page.keyboard.press('Escape');
  await v.page.getByRole('button', { name: 'Clear' }).click();
  assert.equal(new URL(v.page.url()).search, '');
  await v.close();
});

test('the ladder says which key serves a member, and why not the others', async () => {
  const [first, reserve] = [await register('ladder'), await register('reserve')];
  await call('PATCH', `/v1/aikeys/${reserve.id}`, { order: 5 });
  await call('PATCH', `/v1/aikeys/${first.id}`, { order: -5 });
  const v = await visitor();
  await signIn(v.page, { path: '/resolve?provider=openai' });
  await v.page.getByText(/its order is the lowest/).waitFor();
  await v.page.locator('.ladder li', { hasText: 'reserve' }).getByText('another key comes before it').waitFor();
  await v.page.getByLabel('Whose request').selectOption('bob');
  await v.page.getByText('serves the requests of bob').waitFor();
  assert.match(v.page.url(), /user=bob/);
  for (const key of [first, reserve]) await call('DELETE', `/v1/aikeys/${key.id}`);
  await v.close();
});

test('the policy says what a change does before it is saved, and overwrites nobody else’s', async () => {
  const key = await register('policy-key');
  await infer(member);
  const v = await visitor();
  await signIn(v.page, { path: '/policy' });
  await v.page.getByRole('radio', { name: /must use keys of their own/ }).check();
  await v.page.getByText('What this changes').waitFor();
  await call('PUT', '/v1/customers/-/projects/-/policy', { on_bad_key: 'next_key' });
  await v.page.getByRole('button', { name: 'Save' }).click();
  await v.page.getByText('Someone else has changed the policy in the meantime').waitFor();
  await v.page.getByRole('button', { name: 'Show the new one' }).click();
  await v.page.getByRole('radio', { name: /Try the next key/ }).and(v.page.locator(':checked')).waitFor();
  await v.page.getByRole('radio', { name: /Return the provider’s error/ }).check();
  await v.page.getByRole('button', { name: 'Save' }).click();
  await v.page.getByText('What this changes').waitFor({ state: 'detached' });
  const { policy } = await call('GET', '/v1/customers/-/projects/-/policy');
  assert.equal(policy.on_bad_key, 'fail');
  await call('DELETE', `/v1/aikeys/${key.id}`);
  await v.close();
});

test('a member is added, removed and brought back, and the last owner stays', async () => {
  const v = await visitor();
  await signIn(v.page, { path: '/members' });
  await v.page.getByText('the last owner').waitFor();
  await v.page.getByRole('button', { name: /^Add member/ }).click();
  await v.page.getByLabel('User id').fill('dora');
  await v.page.getByRole('dialog').getByRole('button', { name: 'Add', exact: true }).click();
  await v.page.getByRole('button', { name: 'Remove dora' }).click();
  const dialog = v.page.getByRole('dialog', { name: 'Remove dora?' });
  await dialog.getByText('has registered no project key').waitFor();
  await dialog.getByRole('button', { name: 'Remove dora' }).click();
  await v.page.getByText('dora is no longer a member.').waitFor();
  await v.page.getByRole('button', { name: 'Undo' }).click();
  await v.page.getByRole('button', { name: 'Remove dora' }).waitFor();
  await call('DELETE', '/v1/customers/-/projects/-/members/dora');
  await v.close();
});

/** Runs a command that a page offers, with the session that "aikeysd dev" has written. */
const run = (command, as) => promisify(execFile)('bash', ['-c', command], {
  env: { ...process.env, AGENTROUTER_GATEWAY_URL: gateway, AGENTROUTER_API_KEY: as }, timeout: patience,
}).then(({ stdout }) => stdout);

test('a newcomer comes to a streamed answer, and a second person to a key of their own, until they leave', async () => {
  for (const { id } of (await call('GET', '/v1/aikeys?state=active')).keys) await call('DELETE', `/v1/aikeys/${id}`);
  const v = await visitor();
  await signIn(v.page);
  await v.page.getByText('Three steps to the first answer').waitFor();
  await v.page.getByRole('listitem').getByRole('button', { name: 'Add key' }).click();
  await v.page.locator('input[name=provider-key]').fill(secretOf());
  await v.page.getByRole('dialog').getByRole('button', { name: 'Add key' }).click();
  const command = await v.page.getByText('Send the first one, in a terminal:').locator('..').locator('pre').innerText();
  const pieces = (await run(command, owner)).split('\n').filter((line) => line.startsWith('data: {'));
  assert.ok(pieces.length > 3, 'the answer is streamed');

  const second = await visitor();
  await signIn(second.page, { as: member, path: '/keys?add=key' });
  await second.page.locator('input[name=provider-key]').fill(secretOf());
  await second.page.getByRole('dialog').getByRole('button', { name: 'Add key' }).click();
  await second.page.getByRole('heading', { name: /^openai-bob/ }).waitFor();
  assert.match(await run(command, member), /^data: /);
  await visit(second.page, '/resolve?provider=openai');
  await second.page.getByText('it is the newest own key').waitFor();

  await visit(v.page, '/members');
  await v.page.getByRole('button', { name: 'Remove bob' }).click();
  const dialog = v.page.getByRole('dialog', { name: 'Remove bob?' });
  await dialog.getByText(/own key/).first().waitFor();
  await dialog.getByRole('button', { name: 'Remove bob' }).click();
  await v.page.getByText('bob is no longer a member.').waitFor();
  await v.page.getByText('No data plane can fetch a key for bob any more.').waitFor();
  await v.page.getByText('● complete').waitFor();
  await accessible(v.page, 'the receipt of a removal');
  if (shots) await v.page.screenshot({ path: join(shots, 'removed.png') });
  assert.match(await run(command, member), /"code":"permission_denied"/, 'nothing serves them any more');
  await v.page.getByRole('button', { name: 'Undo' }).click();
  await v.page.getByRole('button', { name: 'Remove bob' }).waitFor();
  for (const one of [v, second]) await one.close();
});

test('a key gets another secret, which stays nowhere in the page', async () => {
  const key = await register('rotated');
  const v = await visitor();
  await signIn(v.page, { path: `/keys/${key.id}` });
  await v.page.getByRole('button', { name: 'Rotate…' }).click();
  const secret = secretOf();
  await v.page.getByLabel('The new secret').fill(secret);
  await v.page.getByRole('checkbox', { name: /Test the new one/ }).uncheck();
  await v.page.getByRole('button', { name: 'Change the secret' }).click();
  await v.page.getByText('Version 2 of rotated is active.').waitFor();
  assert.ok(!(await v.page.content()).includes(secret));
  await v.page.getByRole('button', { name: 'Done' }).click();
  await v.page.getByRole('heading', { name: `rotated …${secret.slice(-4)}` }).waitFor();
  await v.page.getByText('No data plane uses version 1 any more.').waitFor();
  await accessible(v.page, 'the versions of a key');
  if (shots) await v.page.screenshot({ path: join(shots, 'versions.png'), fullPage: true });
  await v.page.getByRole('button', { name: 'Roll back to version 1' }).click();
  await v.page.getByRole('heading', { name: `rotated …${key.display_suffix}` }).waitFor();
  await v.page.getByRole('button', { name: 'Destroy version 2' }).click();
  await v.page.getByRole('button', { name: 'Destroy version 2' }).waitFor({ state: 'detached' });
  await v.close();
});

test('a key is restricted to models, and to nothing again', async () => {
  const key = await register('restricted');
  const v = await visitor({ expected: [400] });
  await signIn(v.page, { path: `/keys/${key.id}` });
  await v.page.getByRole('button', { name: 'Restrict…' }).click();
  const dialog = v.page.getByRole('dialog', { name: /^What restricted may/ });
  await dialog.getByLabel('Models').fill('gpt 4o');
  await accessible(v.page, 'the dialog of restrictions');
  if (shots) await v.page.screenshot({ path: join(shots, 'restrict.png') });
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.getByText(/^An entry must be a model/).waitFor();
  await dialog.getByLabel('Models').fill('gpt-4o\no4-*');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await v.page.getByText('models: gpt-4o, o4-*').waitFor();
  await v.page.getByRole('button', { name: 'Restrict…' }).click();
  await dialog.getByLabel('Models').fill('');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await v.page.getByText('models: gpt-4o, o4-*').waitFor({ state: 'detached' });
  await call('DELETE', `/v1/aikeys/${key.id}`);
  await v.close();
});

test('an API key is made without being shown, and revoked', async () => {
  const v = await visitor();
  await v.context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await signIn(v.page, { path: '/access?add=api-key' });
  await v.page.getByRole('textbox', { name: 'Name' }).fill('laptop');
  await v.page.getByRole('button', { name: 'Make it' }).click();
  await v.page.getByRole('button', { name: 'Copy the API key' }).click();
  await v.page.getByText('Copied').waitFor();
  const made = await v.page.evaluate(() => navigator.clipboard.readText());
  assert.match(made, /^ak_/);
  assert.ok(!(await v.page.content()).includes(made));
  assert.equal((await call('GET', '/v1/whoami', undefined, made)).user_id, 'alice');
  await v.page.getByRole('button', { name: 'Done' }).click();
  await v.page.getByRole('button', { name: 'Revoke laptop' }).click();
  await v.page.getByRole('dialog').getByRole('button', { name: 'Revoke', exact: true }).click();
  await v.page.getByRole('button', { name: 'Revoke laptop' }).waitFor({ state: 'detached' });
  assert.equal((await fetch(`${base}/v1/whoami`, { headers: { Authorization: `Bearer ${made}` } })).status, 401);
  await v.close();
});

/** Lets the mock answer the API, as `prefer` says by the method and path. */
async function onMock(v, prefer) {
  await v.page.route('**/v1/**', async (route) => {
    const request = route.request();
    const { pathname, search } = new URL(request.url());
    const wish = Object.entries(prefer).find(([path]) => pathname.endsWith(path))?.[1];
    const response = await route.fetch({ url: mock + pathname + search, headers: { ...await request.allHeaders(), authorization: 'Bearer any', ...(typeof wish === 'string' && { prefer: wish }) } });
    const body = typeof wish === 'object' && response.ok() ? JSON.stringify({ ...await response.json(), ...wish }) : await response.body();
    await route.fulfill({ response, body });
  });
}

const states = {
  'an empty project shows the way to the first key': ['/keys', { '/aikeys': { keys: [] } }, 'Three steps to the first answer'],
  'what a filter leaves out can be shown again': ['/keys?q=nothing', {}, 'Show all active keys'],
  'a refusal says that one may not, and who one is': ['/keys', { '/aikeys': 'code=403' }, 'You may not see this'],
  'an error of the service has a request id': ['/audit', { '/events': 'code=500' }, 'give the request_id to its operator'],
  'a service that is not ready is said to be': ['/audit', { '/events': 'code=503' }, 'try again after'],
  'a key that is not there leads to those that are': ['/keys/byok_01M83VVAHV8M2T5K7N9R4W1XYZ', { '1XYZ': 'code=404' }, 'No such key'],
  'nothing denied is good news': ['/audit?outcome=denied', { '/events': { events: [] } }, 'That is good news'],
  'usage without a request says when it shows': ['/usage', { '/usage': { usage: [] } }, 'Nothing was served'],
  'without a data plane a receipt proves little, and the page says so': ['/planes', { '/fetches': { fetches: [] } }, 'No data plane has fetched a key'],
  'a user who is no member learns whom to ask': ['/access', { '/whoami': { role: undefined } }, 'Ask one of its owners'],
};

test('each state of a page says what to do, and is accessible', async (t) => {
  const v = await visitor({ width: 390, expected: [403, 404, 500, 503] });
  for (const [name, [path, prefer, text]] of Object.entries(states)) {
    await t.test(name, async () => {
      await v.page.unrouteAll({ behavior: 'wait' });
      await onMock(v, prefer);
      await signIn(v.page, { path });
      await v.page.getByText(text).first().waitFor();
      await accessible(v.page, name);
    });
  }
  await v.close();
});
