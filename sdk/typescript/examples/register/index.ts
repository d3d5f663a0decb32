// Registers a provider key of the caller's own, which serves only their requests.
// Needs AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY, and takes the provider key from OPENAI_API_KEY; without one it
// registers a made-up key. Run it with: npm install && npx tsx index.ts
import { AlreadyExistsError, Client } from '@tetrate/agentrouter-sdk';

const secret = process.env.OPENAI_API_KEY ?? 'sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001';
const name = `example-${Date.now().toString(36)}`;

const client = new Client(); // reads the environment
try {
  const { key } = await client.aikeys.register({ provider: 'openai', name, secret, userScope: true });
  console.log(key);
} catch (error) {
  if (!(error instanceof AlreadyExistsError)) {
    throw error;
  }
  console.error('Choose another name:', error.message);
  process.exitCode = 1;
}
