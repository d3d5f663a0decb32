/** Reads and checks the settings of a client. */

import { ArgumentError } from './errors.js';
import type { Attempt } from './types.js';

export interface ClientOptions {
  /** The address of the service. By default the environment's `AGENTROUTER_BASE_URL`. */
  baseUrl?: string | undefined;
  /**
   * An API key or a session token, or a function that returns one: it is called for each attempt, so that session tokens can be
   * replaced while the program runs. By default the environment's `AGENTROUTER_API_KEY`.
   */
  apiKey?: string | (() => string | Promise<string>) | undefined;
  /** Used instead of the platform's `fetch`. */
  fetch?: typeof globalThis.fetch | undefined;
  /** How long one attempt may take; the default is 30 000. */
  timeoutMs?: number | undefined;
  /** How many times a failed attempt is repeated; the default is 2. */
  maxRetries?: number | undefined;
  /** Allows sending the API key over plain HTTP to another machine. */
  allowInsecureHttp?: boolean | undefined;
  /** More headers for every request, such as those that a proxy asks for. */
  headers?: Record<string, string> | undefined;
  /** Called with each attempt of each call, to log it. */
  log?: ((attempt: Attempt) => void) | undefined;
}

export interface Config {
  baseUrl: string;
  apiKey: string | (() => string | Promise<string>);
  fetch: typeof globalThis.fetch | undefined;
  timeoutMs: number;
  maxRetries: number;
  headers: Record<string, string>;
  log: ((attempt: Attempt) => void) | undefined;
}

interface Runtime {
  process?: {
    env?: Record<string, string | undefined>;
    versions?: Record<string, string | undefined>;
  };
}

const runtime = (): Runtime['process'] => (globalThis as Runtime).process;

/** The runtime's name and version, or nothing in a browser, which sends its own User-Agent. */
export function runtimeVersion(): string | undefined {
  const versions = runtime()?.versions ?? {};
  const name = ['bun', 'deno', 'node'].find((known) => versions[known]);
  return name && `${name} ${versions[name]}`;
}

/** An environment variable, if there is one and it may be read: Deno asks for permission. */
function fromEnvironment(name: string): string | undefined {
  try {
    return runtime()?.env?.[name];
  } catch {
    return undefined;
  }
}

const loopback = /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/;

function checkBaseUrl(text: string | undefined, insecureAllowed: boolean): string {
  if (!text) {
    throw new ArgumentError('no base URL: give baseUrl, or set AGENTROUTER_BASE_URL');
  }
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new ArgumentError('the base URL is not a URL such as https://aikeys.example.com');
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:') {
    throw new ArgumentError('the base URL must begin with https:// or http://');
  }
  if (url.username || url.password || url.search || url.hash) {
    throw new ArgumentError('the base URL must have no user, password, query or fragment');
  }
  if (url.protocol === 'http:' && !insecureAllowed && !loopback.test(url.hostname)) {
    throw new ArgumentError(
      'the base URL is http:// to another machine, which would show the API key to the network:' +
        ' use https://, or allowInsecureHttp',
    );
  }
  return url.origin + url.pathname.replace(/\/+$/, '');
}

export function checkApiKey(key: string | undefined): string {
  if (!key) {
    throw new ArgumentError('no API key: give apiKey, or set AGENTROUTER_API_KEY');
  }
  if (!/^[!-~]+$/.test(key)) {
    throw new ArgumentError('the API key must be visible ASCII characters without spaces');
  }
  return key;
}

/** A header's value may be a secret, so the error does not repeat it. */
export function checkHeaders(headers: Record<string, string>): Record<string, string> {
  for (const [name, value] of Object.entries(headers)) {
    if (!/^[!#$%&'*+.^_`|~\w-]+$/.test(name) || !/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) {
      throw new ArgumentError(`headers must have names and values that HTTP allows: see ${JSON.stringify(name)}`);
    }
  }
  return { ...headers };
}

/** The longest time that timers support. */
const maxTimeoutMs = 2 ** 31 - 1;

export function checkTimeout(timeoutMs: number): number {
  if (!(timeoutMs > 0)) {
    throw new ArgumentError('timeoutMs must be more than 0');
  }
  return Math.min(timeoutMs, maxTimeoutMs);
}

export function checkRetries(maxRetries: number): number {
  if (!(maxRetries >= 0)) {
    throw new ArgumentError('maxRetries must be 0 or more');
  }
  return maxRetries;
}

/** Options win over the environment. Errors do not repeat a wrong value. */
export function readConfig(options: ClientOptions): Config {
  return {
    baseUrl: checkBaseUrl(options.baseUrl || fromEnvironment('AGENTROUTER_BASE_URL'), !!options.allowInsecureHttp),
    apiKey:
      typeof options.apiKey === 'function'
        ? options.apiKey
        : checkApiKey(options.apiKey || fromEnvironment('AGENTROUTER_API_KEY')),
    fetch: options.fetch,
    timeoutMs: checkTimeout(options.timeoutMs ?? 30_000),
    maxRetries: checkRetries(options.maxRetries ?? 2),
    headers: checkHeaders(options.headers ?? {}),
    log: options.log,
  };
}
