/** The package as it comes out of the tarball. `test.sh` unpacks it. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { version } from '../src/index.js';
import { root, unpacked } from './paths.js';

/** Makes a project that has the package installed, and these files. */
function project(t: TestContext, files: Record<string, string>): string {
  const folder = mkdtempSync(join(tmpdir(), 'agentrouter-'));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  mkdirSync(join(folder, 'node_modules/@tetrate'), { recursive: true });
  symlinkSync(unpacked, join(folder, 'node_modules/@tetrate/agentrouter-sdk'));
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(join(folder, name), text);
  }
  return folder;
}

const run = (folder: string, program: string, ...args: string[]): string =>
  execFileSync(program, args, { cwd: folder, encoding: 'utf8' });

test('ECMAScript and CommonJS modules both load it', (t) => {
  const use = "console.log(typeof Client, typeof version, new Client({ baseUrl: 'https://a.example', apiKey: 'k' }))";
  const folder = project(t, {
    'a.mjs': `import { Client, version } from '@tetrate/agentrouter-sdk'; ${use}`,
    'a.cjs': `const { Client, version } = require('@tetrate/agentrouter-sdk'); ${use}`,
  });
  for (const file of ['a.mjs', 'a.cjs']) {
    assert.match(run(folder, process.execPath, file), /^function string Client {/);
  }
});

/** Calls that must compile, and calls that must not. */
const typed = `
  import { type AIKeyProvider, Client, NotFoundError, type RegisterResponse } from '@tetrate/agentrouter-sdk';
  export async function use(env: Record<string, string | undefined>): Promise<RegisterResponse> {
    const client = new Client({ baseUrl: env.A, apiKey: env.B });
    const provider: AIKeyProvider = 'a_new_one';
    for await (const key of client.aikeys.iterate('', '')) {
      const state: 'active' | 'revoked' | (string & {}) = key.state;
      console.log(state, key.last_failure?.status, key.display_suffix.length);
    }
    // @ts-expect-error a method has no such argument
    await client.aikeys.get('', '', 1);
    // @ts-expect-error an option is misspelt
    await client.aikeys.list('', '', { page_size: 1 });
    // @ts-expect-error nobody reads the secret back
    console.log((await client.aikeys.get('', '', 'id')).key.secret);
    try {
      await client.members.set('', '', 'bob', 'owner', { signal: AbortSignal.timeout(1000) });
    } catch (error) {
      if (error instanceof NotFoundError) console.log(error.requestId?.length, error.errors[0]?.field);
    }
    return client.aikeys.register('', '', provider, 'name', 'secret', true, { idempotencyKey: 'a' });
  }
`;

const settings: Record<string, object> = {
  bundler: { module: 'ESNext', moduleResolution: 'bundler', target: 'ES2020' },
  'nodenext, strictest': {
    module: 'NodeNext',
    moduleResolution: 'NodeNext',
    target: 'ES2022',
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
  },
  'node10, without DOM': { module: 'CommonJS', moduleResolution: 'node10', target: 'ES2020', lib: ['ES2020'] },
};

for (const [name, compilerOptions] of Object.entries(settings)) {
  test(`the types hold under ${name}`, (t) => {
    const options = { strict: true, noEmit: true, skipLibCheck: false, types: ['node'], ...compilerOptions };
    const folder = project(t, {
      'a.ts': typed,
      'b.cts': typed,
      'c.mts': typed,
      'tsconfig.json': JSON.stringify({ compilerOptions: options, include: ['*.ts', '*.cts', '*.mts'] }),
    });
    for (const dependency of ['@types', 'undici-types']) {
      symlinkSync(join(root, 'node_modules', dependency), join(folder, 'node_modules', dependency));
    }
    assert.equal(run(folder, join(root, 'node_modules/.bin/tsc'), '-p', '.'), '');
  });
}

test('it brings no dependencies, and says one version', () => {
  const text = readFileSync(join(unpacked, 'package.json'), 'utf8');
  const manifest = JSON.parse(text) as Record<string, unknown>;
  assert.equal(manifest['name'], '@tetrate/agentrouter-sdk');
  assert.equal(manifest['version'], version);
  assert.doesNotMatch(text, /[dD]ependencies"|"scripts"/);
});

test('the sources have no any, and the built types none either', () => {
  const types = run(unpacked, 'sh', '-c', 'cat dist/esm/*.d.ts dist/esm/gen/*.d.ts dist/cjs/*.d.ts');
  const code = types.replace(/\/\*[^]*?\*\//g, '');
  assert.doesNotMatch(code, /\bany\b/);
  assert.match(code, /export declare class Client/);
});

test('the same sources make the same tarball', (t) => {
  const folder = project(t, {});
  const sums = ['one', 'two'].map((name) => {
    run(root, './dist.sh', join(folder, name));
    return run(join(folder, name), 'sh', '-c', 'sha256sum *.tar.gz');
  });
  assert.equal(sums[0], sums[1]);
});
