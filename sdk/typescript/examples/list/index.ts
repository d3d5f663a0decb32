// Lists the project's keys and your own, newest first, page by page.
// Needs AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY. Run it with: npm install && npx tsx index.ts
import { Client } from '@tetrate/agentrouter-sdk';

const client = new Client(); // reads the environment
// '' stands for your session's customer and project.
for await (const { id, provider, name, state } of client.aikeys.iterate('', '')) {
  console.log({ id, provider, name, state });
}
