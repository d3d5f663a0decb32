// What the pages are in a real browser. impl/docsite/browser.sh starts the service and says where it is.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const base = process.env.BASE_URL;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const paths = ['/docs', '/docs/getting-started', '/docs/sdks', '/docs/downloads', '/docs/problems', '/problems/invalid-argument'];
const views = ['light', 'dark'].flatMap((scheme) => [1280, 390].map((width) => ({ scheme, width })));

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
});
after(() => browser.close());

/** Opens a page and gathers what it should not have: messages, errors, requests to others. */
async function open(path, { scheme = 'light', width = 1280, origin = base, javaScriptEnabled = true } = {}) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width, height: 900 }, javaScriptEnabled });
  const page = await context.newPage();
  const faults = [];
  page.on('console', (m) => ['error', 'warning'].includes(m.type()) && faults.push(`console: ${m.text()}`));
  page.on('pageerror', (e) => faults.push(`error: ${e.message}`));
  page.on('request', (r) => !r.url().startsWith(`${origin}/`) && faults.push(`asks ${r.url()}`));
  page.on('response', (r) => r.status() >= 400 && faults.push(`${r.status()} for ${r.url()}`));
  await page.goto(origin + path);
  if (path === '/docs' && javaScriptEnabled) {
    await page.getByRole('link', { name: 'Register an AI key' }).or(page.getByRole('button', { name: 'Open Menu' })).first().waitFor();
  }
  await page.waitForLoadState(path === '/docs' ? 'networkidle' : 'load');
  return { page, faults, close: () => context.close() };
}

/** How bright a colour is, from 0 to 1. */
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
        await page.screenshot({ path: join(process.env.SHOTS, name), fullPage: path !== '/docs' });
      }
      assert.deepEqual(faults, []);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(overflow, 0, 'nothing is wider than the window');
      const light = await brightness(page);
      assert.ok(scheme === 'light' ? light > 0.9 : light < 0.2, `background of brightness ${light}`);
      if (path !== '/docs') { // the library's own pages are the library's business
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => axe.run());
        assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(' ')}`), []);
      }
      await close();
    });
  }
}

test('the reference shows every operation, with samples in five languages for this installation', async () => {
  const document = await (await fetch(`${base}/openapi.json`)).json();
  const operations = Object.values(document.paths).flatMap((item) => Object.values(item).filter((o) => o.operationId));
  assert.ok(operations.length > 10);
  const { page, faults, close } = await open('/docs');
  for (const { summary } of operations) {
    await page.getByRole('link', { name: summary }).first().click();
    await page.getByRole('heading', { name: summary }).first().waitFor();
  }
  await page.getByRole('link', { name: 'Revoke an AI key' }).first().click();
  const revoke = page.locator('section', { has: page.getByRole('heading', { name: 'Revoke an AI key' }) }).last();
  await revoke.getByText(`${base}/v1/customers/-/projects/-/aikeys/byok_`).first().waitFor();
  await revoke.getByRole('button', { name: 'curl' }).first().click();
  for (const label of ['curl', 'Go', 'Python', 'TypeScript', 'CLI']) {
    await page.getByRole('option', { name: label, exact: true }).waitFor();
  }
  await page.getByRole('option', { name: 'CLI', exact: true }).click();
  await revoke.getByText('tare api byok remove').first().waitFor();
  assert.deepEqual(faults, []);
  await close();
});

test('without JavaScript the reference lists the operations', async () => {
  const { page, faults, close } = await open('/docs', { javaScriptEnabled: false });
  await page.getByRole('cell', { name: 'Register an AI key' }).waitFor();
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
    again.type = 'module'; // a scope of its own: it has run before
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
