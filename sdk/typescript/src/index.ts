/** A client of AgentRouter AI Keys: bring your own provider keys, for Node 18+ and browsers. */

export { Client } from './client.js';
export type { ClientOptions } from './config.js';
export * from './errors.js';
export type { AIKeys, Events, Fetches, Members, PolicyMethods, Providers, Usage } from './resources.js';
export type * from './types.js';
export { version } from './version.js';
