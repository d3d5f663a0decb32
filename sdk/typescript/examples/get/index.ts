// Shows one key: the one whose id it is given, else the newest that you may see.
// Needs AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY. Run it with: npm install && npx tsx index.ts [ID]
import { Client, NotFoundError } from '@tetrate/agentrouter-sdk';

const client = new Client(); // reads the environment
const newest = await client.aikeys.list('', '', { pageSize: 1 });
const id = process.argv[2] ?? newest.keys[0]?.id;
if (id === undefined) {
  throw new Error('the project has no keys yet: register one first');
}
try {
  // '' stands for your session's customer and project.
  const { key } = await client.aikeys.get('', '', id);
  console.log(key);
} catch (error) {
  if (!(error instanceof NotFoundError)) {
    throw error;
  }
  console.error('No such key:', error.message);
  process.exitCode = 1;
}
