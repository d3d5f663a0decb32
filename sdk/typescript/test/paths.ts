/** Where things are that tests use; `test.sh` makes them, and says where in the environment. */

import { fileURLToPath } from 'node:url';

/** The folder of this package's sources. */
export const root = fileURLToPath(new URL('..', import.meta.url));

function made(name: string): string {
  const path = process.env[name];
  if (path === undefined) {
    throw new Error(`${name} is not set: run test.sh`);
  }
  return path;
}

/** The folder that the tarball unpacked to. */
export const unpacked = made('AGENTROUTER_TEST_PACKAGE');

/** The service's program. */
export const serverProgram = (): string => made('AGENTROUTER_TEST_SERVER');
