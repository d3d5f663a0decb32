// Tests of the pages in a real browser. impl/docsite/browser.sh starts the service and says where it is.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const base = process.env.BASE_URL;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const paths = [
  '/docs', '/docs/getting-started', '/docs/guides', '/docs/guides/gateway', '/docs/guides/security', '/docs/guides/troubleshooting', '/docs/guides/operations',
  '/docs/guides/console', '/docs/sdks', '/docs/downloads', '/docs/problems', '/problems/invalid-argument',
];
const views = ['light', 'dark'].flatMap((scheme) => [1280, 390].map((width) => ({ scheme, width })));

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
});
after(() => browser.close());

/** Opens a page and collects its faults: messages, errors and requests to other servers. */
async function open(path, { scheme = 'light', width = 1280, origin = base, javaScriptEnabled = true } = {}) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width, height: 900 }, javaScriptEnabled });
  const page = await context.newPage();
  const faults = [];
  page.on('console', (m) => ['error', 'warning'].includes(m.type()) && faults.push(`console: ${m.text()}`));
  page.on('pageerror', (e) => faults.push(`error: ${e.message}`));
  page.on('request', (r) => !r.url().startsWith(`${origin}/`) && faults.push(`asks ${r.url()}`));
  page.on('response', (r) => r.status() >= 400 && faults.push(`${r.status()} for ${r.url()}`));
  await page.goto(origin + path);
  return { page, faults, close: () => context.close() };
}

/** Returns the violations that axe finds on a page, or in a part of it. */
async function violations(page, part = 'html') {
  await page.evaluate(axe);
  const found = await page.evaluate((selector) => axe.run(selector), part);
  return found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(' ')}`);
}

/** Returns the brightness of a colour, from 0 to 1. */
const brightness = (page) => page.evaluate(() => {
  const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).map(Number);
  return (r + g + b) / 3 / 255;
});

for (const path of paths) {
  for (const { scheme, width } of views) {
    test(`${path}, ${scheme}, ${width} pixels wide, loads without a fault and is accessible`, async () => {
      const { page, faults, close } = await open(path, { scheme, width });
      if (process.env.SHOTS) {
        const name = `${path.slice(1).replaceAll('/', '-')}-${scheme}-${width}.png`;
        await page.screenshot({ path: join(process.env.SHOTS, name), fullPage: !['/docs', '/docs/guides/gateway'].includes(path) }); // those are too long for a picture
      }
      assert.deepEqual(faults, []);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(overflow, 0, 'nothing is wider than the window');
      const light = await brightness(page);
      assert.ok(scheme === 'light' ? light > 0.9 : light < 0.2, `background of brightness ${light}`);
      assert.deepEqual(await violations(page), []);
      await close();
    });
  }
}

test('the reference shows every operation, with samples in five languages for this installation', async () => {
  const document = await (await fetch(`${base}/openapi.json`)).json();
  const operations = Object.values(document.paths).flatMap((item) => Object.values(item).filter((o) => o.operationId));
  assert.ok(operations.length > 10);
  const { page, faults, close } = await open('/docs');
  const contents = page.getByRole('navigation', { name: 'Operations' });
  assert.equal(await page.locator('section.operation').count(), operations.length);
  for (const { summary, operationId } of operations) {
    assert.equal(await contents.getByRole('link', { name: summary, exact: true }).getAttribute('href'), `#${operationId}`);
    assert.equal(await page.locator(`h3#${operationId}`).innerText(), summary);
  }
  await contents.getByRole('link', { name: 'Revoke an AI key' }).click();
  const revoke = page.getByRole('region', { name: 'Revoke an AI key' });
  await revoke.getByText(`${base}/v1/customers/-/projects/-/aikeys/byok_`).waitFor();
  for (const label of ['curl', 'Go', 'Python', 'TypeScript', 'CLI']) {
    await revoke.getByRole('button', { name: label, exact: true }).click();
    assert.equal(await revoke.locator('.samples pre:visible').getAttribute('data-language'), label);
  }
  await revoke.getByText('tare api byok remove').waitFor();
  assert.deepEqual(faults, []);
  await close();
});

test('without JavaScript the reference shows the operations and all samples', async () => {
  const { page, faults, close } = await open('/docs', { javaScriptEnabled: false });
  const register = page.getByRole('region', { name: 'Register an AI key' });
  assert.equal(await register.locator('.samples pre:visible').count(), 5);
  assert.equal(await register.getByText('Try it').isVisible(), false);
  assert.deepEqual(faults, []);
  await close();
});

/** Asserts that a text is nowhere: not in the document, its fields, the URL, storage or a cookie. */
async function assertNowhere(page, text) {
  const places = await page.evaluate(() => [
    document.documentElement.outerHTML, ...[...document.querySelectorAll('input, textarea')].map((field) => field.value), location.href,
    JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie, JSON.stringify(history.state),
  ]);
  assert.ok(places.every((place) => !place.includes(text)));
}

test('a reader tries an operation, and secrets stay in memory until they are forgotten', async () => {
  const key = process.env.OWNER_KEY;
  const { page, faults, close } = await open('/docs');
  const who = page.getByRole('region', { name: 'Show my session' });
  await who.getByText('Try it').click();
  await who.getByRole('button', { name: 'Send GET' }).click();
  await who.getByText('Paste an API key first.').waitFor();
  await who.getByLabel('API key or session token').fill(key);
  await who.getByRole('button', { name: 'Send GET' }).click();
  await who.getByText(/^200 OK, in \d+ ms$/).waitFor();
  await who.locator('.outcome').getByText('"user_id": "alice"').waitFor();
  await who.getByText('content-type: application/json').waitFor();
  await assertNowhere(page, key);

  const register = page.getByRole('region', { name: 'Register an AI key' });
  await register.getByText('Try it').click();
  await register.getByText('This page has your API key in its memory.').waitFor();
  assert.deepEqual(await violations(page, '[aria-labelledby=whoAmI]'), [], 'with a form and an answer');
  const secret = `sk-proj-${'EXAMPLE-'.repeat(4)}7301`;
  await register.getByLabel('Body').fill('{');
  await register.getByRole('button', { name: 'Send POST' }).click();
  await register.getByText('The body is not JSON.').waitFor();
  await register.getByLabel('Body').fill(JSON.stringify({ provider: 'openai', name: 'tried', secret }));
  await register.getByRole('button', { name: 'Send POST' }).click();
  await register.getByText(/^201 Created, in/).waitFor();
  await register.getByText('"display_suffix": "7301"').waitFor();
  await assertNowhere(page, secret);
  if (process.env.SHOTS) await page.screenshot({ path: join(process.env.SHOTS, 'docs-try.png') });

  const make = page.getByRole('region', { name: 'Make an API key', exact: true });
  await make.getByText('Try it').click();
  for (const forget of [
    () => register.getByRole('button', { name: 'Forget it' }).click(),
    () => page.evaluate(() => dispatchEvent(new Event('pagehide'))),
  ]) {
    if (await make.getByLabel('API key or session token').isVisible()) await make.getByLabel('API key or session token').fill(key);
    await make.getByRole('button', { name: 'Send POST' }).click();
    await make.getByText(/^201 Created, in/).waitFor();
    const [made] = (await make.locator('.outcome').innerText()).match(/ak_\w{20,}/);
    await register.getByLabel('Body').fill(secret);
    await forget();
    await assertNowhere(page, made);
    await assertNowhere(page, secret);
  }
  assert.equal(await who.getByLabel('API key or session token').isVisible(), true);
  assert.deepEqual(faults, []);
  await close();
});

test('a refused attempt leads to the page of its problem', async () => {
  const { page, close } = await open('/docs');
  const get = page.getByRole('region', { name: 'Get an AI key' });
  await get.getByText('Try it').click();
  await get.getByLabel('API key or session token').fill('two words');
  await get.getByRole('button', { name: 'Send GET' }).click();
  await get.getByText('That is no API key').waitFor();
  await get.getByLabel('API key or session token').fill('ak_wrong');
  await get.getByRole('button', { name: 'Send GET' }).click();
  await get.getByText('id is required.').waitFor();
  await get.getByLabel('id', { exact: false }).last().fill('byok_01M83VVAHV8M2T5K7N9R4W1XYZ');
  await get.getByRole('button', { name: 'Send GET' }).click();
  await get.getByText(/^401 Unauthorized, in/).waitFor();
  assert.equal(await get.getByRole('link', { name: 'what to do' }).getAttribute('href'), '/problems/unauthenticated');
  await assertNowhere(page, 'ak_wrong');
  await close();
});

test('the search finds operations first, then guides and problems, by keyboard', async () => {
  const { page, faults, close } = await open('/docs/guides/security');
  const found = page.getByRole('option');
  for (const [query, first, kind] of [
    ['revoke', 'Revoke an AI key', 'Operation'], ['audit', 'Read the audit trail', 'Operation'], ['listKeys', 'List AI keys', 'Operation'],
    ['nginx', 'Behind nginx, Caddy, Traefik or Envoy', 'Guide'], ['ledger', '', ''], ['key revoked', 'Key revoked', 'Problem'],
  ]) {
    await page.keyboard.press('/');
    await page.getByRole('combobox').fill(query);
    if (first) await found.first().filter({ hasText: first }).filter({ hasText: kind }).waitFor();
    else await page.getByText('Nothing found').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('heading', { level: 1 }).click();
  }
  await page.keyboard.press('/');
  await page.getByRole('combobox').fill('revoke');
  await found.first().filter({ hasText: 'Revoke an AI key' }).waitFor();
  assert.deepEqual(await violations(page), [], 'with the list open');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowUp');
  await page.keyboard.press('Enter');
  await page.waitForURL(`${base}/docs#revokeKey`);
  assert.deepEqual(faults, []);
  await close();
});

test('links between guides stay in this service', async () => {
  const { page, faults, close } = await open('/docs/guides');
  await page.getByRole('link', { name: 'Gateway', exact: true }).click();
  await page.getByRole('article').getByRole('link', { name: 'data plane', exact: true }).first().click();
  await page.waitForURL(`${base}/docs/guides/dataplane`);
  await page.getByRole('link', { name: 'Console', exact: true }).click();
  await page.getByRole('heading', { name: 'Sign in to AI Keys' }).waitFor();
  assert.deepEqual(faults, []);
  await close();
});

test('the pages say the address by which the reader came', async () => {
  const origin = base.replace('127.0.0.1', 'localhost');
  for (const path of ['/docs/getting-started', '/docs/sdks']) {
    const { page, faults, close } = await open(path, { origin });
    const text = await page.locator('#content').innerText();
    assert.ok(text.includes(origin), path);
    assert.ok(!text.includes('127.0.0.1'), path);
    assert.deepEqual(faults, []);
    await close();
  }
});

test('a browser knows better than the server behind a proxy that tells it nothing', async () => {
  const { page, close } = await open('/docs/getting-started');
  const shown = await page.evaluate(async (script) => {
    document.body.dataset.base = 'http://inside:1';
    const code = document.querySelector('pre[data-base]');
    code.textContent = 'export AGENTROUTER_BASE_URL=http://inside:1';
    const again = document.createElement('script');
    again.src = script;
    again.type = 'module'; // a module of its own: the script has run before
    await new Promise((loaded) => { again.onload = loaded; document.head.append(again); });
    return code.textContent;
  }, `${base}/docs/assets/site.js`);
  assert.equal(shown, `export AGENTROUTER_BASE_URL=${base}`);
  await close();
});

test('the keyboard reaches the content first, then the navigation', async () => {
  const { page, close } = await open('/docs/problems');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the content');
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'content');
  await close();
});

test('code can be copied', async () => {
  const { page, close } = await open('/docs/getting-started');
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.getByRole('button', { name: 'Copy' }).first().click();
  await page.getByRole('button', { name: 'Copied' }).waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), new RegExp(`^export AGENTROUTER_BASE_URL=${base}\n`));
  await close();
});

test('the SDKs can be downloaded', async () => {
  const { page, close } = await open('/docs/sdks');
  const links = await page.locator('a[download]').all();
  assert.equal(links.length, 3);
  for (const link of links) {
    const [download] = await Promise.all([page.waitForEvent('download'), link.click()]);
    assert.equal(download.suggestedFilename(), await link.textContent());
    assert.equal(await download.failure(), null);
  }
  await close();
});
