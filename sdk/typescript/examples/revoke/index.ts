// Revokes a key and waits until every data plane has dropped it: the key whose id it is given, else one that it
// registers for the purpose.
// Needs AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY. Run it with: npm install && npx tsx index.ts [ID]
import { Client } from '@tetrate/agentrouter-sdk';

const client = new Client(); // reads the environment

/** Registers a made-up key of the caller's own. */
async function madeUp(): Promise<string> {
  const name = `example-${Date.now().toString(36)}`;
  const secret = 'sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001';
  const { key } = await client.aikeys.register({ provider: 'openai', name, secret, userScope: true });
  return key.id;
}

const id = process.argv[2] ?? (await madeUp());
// '' stands for your session's customer and project.
const { receipt } = await client.aikeys.revoke('', '', id, { wait: '2s' });
console.log(receipt);
