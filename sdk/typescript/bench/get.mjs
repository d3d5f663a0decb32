// Prints what a Get takes through this package, and through fetch alone, against the same server in the same run.
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const key = {
  id: 'byok_01M83VVAHV8M2T5K7N9R4W1XYZ',
  customer_id: 'acme',
  project_id: 'chat',
  provider: 'openai',
  name: 'openai-prod',
  display_suffix: '9f3c',
  user_scope: false,
  created_at: '2026-11-23T09:30:00.123456Z',
  created_by: 'alice',
  state: 'active',
};
const warmUp = 1_000;
const rounds = 4_000;

/** The other process: answers every request with one key. */
async function answer() {
  const text = JSON.stringify({ key });
  const headers = { 'content-type': 'application/json', 'content-length': text.length, 'cache-control': 'no-store' };
  const server = createServer((_, response) => {
    response.writeHead(200, headers).end(text);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.send(server.address().port);
  process.on('disconnect', () => process.exit());
}

async function microseconds(call) {
  const began = performance.now();
  await call();
  return (performance.now() - began) * 1_000;
}

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

async function measure(folder) {
  const { Client } = await import(`${folder}/esm/index.js`);
  const stdio = ['ignore', 'ignore', 'inherit', 'ipc'];
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url)], { stdio });
  const [port] = await once(child, 'message');
  const baseUrl = `http://127.0.0.1:${port}`;
  const client = new Client({ baseUrl, apiKey: 'ak_bench' });
  const url = `${baseUrl}/v1/customers/-/projects/-/aikeys/${key.id}`;
  const headers = { accept: 'application/json', authorization: 'Bearer ak_bench' };

  const viaSDK = () => client.aikeys.get('', '', key.id);
  // Whoever calls fetch by hand gives it a timeout too.
  const viaFetch = async () => (await fetch(url, { headers, signal: AbortSignal.timeout(30_000) })).json();
  const viaBareFetch = async () => (await fetch(url, { headers })).json();
  const ways = { sdk: viaSDK, 'fetch with a timeout': viaFetch, 'bare fetch': viaBareFetch };

  // They take turns, in changing order, so that what else the machine does falls on all of them alike.
  const names = Object.keys(ways);
  const times = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = -warmUp; round < rounds; round++) {
    for (let turn = 0; turn < names.length; turn++) {
      const name = names[Math.abs(round + turn) % names.length];
      const time = await microseconds(ways[name]);
      if (round >= 0) {
        times[name].push(time);
      }
    }
  }
  child.disconnect();
  const medians = Object.fromEntries(names.map((name) => [name, median(times[name])]));
  for (const name of names) {
    console.log(`${name}: ${medians[name].toFixed(1)} µs per Get`);
  }
  for (const name of names.slice(1)) {
    console.log(`ratio to ${name}: ${(medians.sdk / medians[name]).toFixed(3)}`);
  }
}

await (process.send ? answer() : measure(process.argv[2]));
