import { type ClientOptions, readConfig } from './config.js';
import { AIKeys, Events, Fetches, Leaks, Members, PolicyMethods, Projects, Providers, Tokens, Usage } from './resources.js';
import { Transport } from './transport.js';
import type { CallOptions, SignInOptionsResponse, WhoAmIResponse } from './types.js';

/**
 * A client of AgentRouter AI Keys. It can be shared and need not be closed. It does not show its API key, neither when it is
 * printed nor as JSON.
 */
export class Client {
  readonly #transport: Transport;

  /** Provider keys. */
  readonly aikeys: AIKeys;
  /** The project's policy. */
  readonly policy: PolicyMethods;
  /** The audit trail. */
  readonly events: Events;
  /** Which data planes fetched which keys. */
  readonly fetches: Fetches;
  /** How often each key served each user. */
  readonly usage: Usage;
  /** The project's members. */
  readonly members: Members;
  /** Keys that have leaked. */
  readonly leaks: Leaks;
  /** The projects in which the caller may act. */
  readonly projects: Projects;
  /** API keys of the service. */
  readonly tokens: Tokens;
  /** The catalogue of providers. */
  readonly providers: Providers;

  /** Reads missing options from the environment. Throws an ArgumentError if one is missing or wrong. */
  constructor(options: ClientOptions = {}) {
    const transport = new Transport(readConfig(options));
    this.#transport = transport;
    this.aikeys = new AIKeys(transport);
    this.policy = new PolicyMethods(transport);
    this.events = new Events(transport);
    this.fetches = new Fetches(transport);
    this.usage = new Usage(transport);
    this.members = new Members(transport);
    this.leaks = new Leaks(transport);
    this.projects = new Projects(transport);
    this.tokens = new Tokens(transport);
    this.providers = new Providers(transport);
  }

  /** Shows the session: the user of the API key, and the customer and project that `''` means. */
  async whoAmI(options?: CallOptions): Promise<WhoAmIResponse> {
    return this.#transport.send({ method: 'GET', path: '/v1/whoami', expect: ['user_id', 'string'] }, options);
  }

  /** Shows which credentials the service accepts, and how people get a session token from its OpenID Connect issuer. */
  async signInOptions(options?: CallOptions): Promise<SignInOptionsResponse> {
    return this.#transport.send({ method: 'GET', path: '/v1/sign-in', expect: ['methods', 'array'] }, options);
  }
}
