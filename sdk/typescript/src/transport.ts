/** Sends calls: attempts, the waits between them, and what counts as a good answer. */

import { checkApiKey, checkHeaders, checkRetries, checkTimeout, type Config, runtimeVersion } from './config.js';
import { ArgumentError, ConnectionError, ResponseError, TimeoutError } from './errors.js';
import { type Answer, errorOf, isObject, parseObject, requestIdOf, retryAfterOf } from './problem.js';
import type { CallOptions } from './types.js';
import { version } from './version.js';

export interface Call {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  query?: Record<string, string | number | undefined>;
  body?: object;
  headers?: Record<string, string>;
  /** The member that a good answer has at its top level, and its type. */
  expect?: [name: string, kind: 'object' | 'array' | 'string'];
  /** Texts that must not show in an error, apart from the API key. */
  secret?: string | readonly string[];
  /** How long the service may hold its answer, which is added to the timeout. */
  extraMs?: number;
}

const retried = new Set([429, 502, 503, 504]);
const firstBackoffMs = 250;
const maxBackoffMs = 4_000;
const maxRetryAfter = 30;

export class Transport {
  readonly #config: Config;
  readonly #headers: Record<string, string>;

  constructor(config: Config) {
    this.#config = config;
    const runtime = runtimeVersion();
    const own: Record<string, string> = { accept: 'application/json' };
    if (runtime) {
      own['user-agent'] = `agentrouter-typescript/${version} (${runtime})`;
    }
    this.#headers = merge(config.headers, own);
  }

  /** Resolves with the answer's JSON object. */
  async send<T>(call: Call, options: CallOptions = {}): Promise<T> {
    const { signal } = options;
    const timeoutMs = checkTimeout(options.timeoutMs ?? this.#config.timeoutMs) + (call.extraMs ?? 0);
    const retries = checkRetries(options.maxRetries ?? this.#config.maxRetries);
    const url = this.#config.baseUrl + call.path + queryOf(call.query);
    const init: RequestInit = { method: call.method, redirect: 'manual' };
    if (call.body) {
      init.body = JSON.stringify(call.body);
    }
    const headers = merge(checkHeaders(options.headers ?? {}), this.#headers, call.headers ?? {});
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      const { apiKey } = this.#config;
      const key = typeof apiKey === 'function' ? checkApiKey(await apiKey()) : apiKey;
      const hide = (text: string): string => redact(text, [key, call.secret].flat());
      init.headers = merge(headers, { authorization: `Bearer ${key}` });
      let answer: Answer | undefined;
      let failure: Error;
      const began = Date.now();
      try {
        answer = await this.#attempt(url, init, timeoutMs, signal, hide);
        this.#log(call, began, answer);
        const { status, headers, text } = answer;
        options.onResponse?.({ status, headers, requestId: requestIdOf(headers), body: text });
        if (answer.status >= 200 && answer.status < 300) {
          return accept(answer, call.expect) as T;
        }
        failure = refusal(answer, hide);
      } catch (error) {
        if (!(error instanceof ConnectionError)) {
          throw error;
        }
        this.#log(call, began, undefined, error.message);
        failure = error;
      }
      const retryAfter = answer && retryAfterOf(answer.headers);
      const repeats = !answer || retried.has(answer.status);
      if (!repeats || attempt >= retries || (retryAfter ?? 0) > maxRetryAfter) {
        throw failure;
      }
      const backoff = Math.random() * Math.min(maxBackoffMs, firstBackoffMs * 2 ** attempt);
      await sleep(Math.max(backoff, (retryAfter ?? 0) * 1_000), signal);
    }
  }

  #log({ method, path }: Call, began: number, answer?: Answer, error?: string): void {
    const ms = Date.now() - began;
    const outcome = answer ? { status: answer.status, requestId: requestIdOf(answer.headers) } : { error: error ?? '' };
    this.#config.log?.({ method, path, ms, ...outcome });
  }

  async #attempt(
    url: string,
    init: RequestInit,
    timeoutMs: number,
    signal: AbortSignal | undefined,
    hide: (text: string) => string,
  ): Promise<Answer> {
    const where = (): string => `${String(init.method)} ${new URL(url).origin}`;
    const controller = new AbortController();
    const abort = (): void => {
      controller.abort();
    };
    const timer = setTimeout(() => {
      controller.abort(new TimeoutError(`${where()}: no answer within ${timeoutMs} ms`));
    }, timeoutMs);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const fetch = this.#config.fetch ?? globalThis.fetch; // browsers insist on a call without a receiver
      const response = await fetch(url, { ...init, signal: controller.signal });
      return { status: response.status, headers: response.headers, text: await response.text() };
    } catch (error) {
      signal?.throwIfAborted();
      if (controller.signal.reason instanceof TimeoutError) {
        throw controller.signal.reason;
      }
      // The message has the cause's text, but the error does not hold the cause: that may hold the request with the API key.
      throw new ConnectionError(`${where()}: ${hide(reasonOf(error))}`);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }
}

/** Merges headers, whose names ignore case. Later ones win. */
function merge(...all: Record<string, string>[]): Record<string, string> {
  const merged: Record<string, string> = {};
  for (const [name, value] of all.flatMap((headers) => Object.entries(headers))) {
    merged[name.toLowerCase()] = value;
  }
  return merged;
}

function queryOf(query: Call['query'] = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== '');
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString()}` : '';
}

/** Removes secrets from a text. A very short text is not a secret, and may be a part of any word. */
function redact(text: string, secrets: (string | undefined)[]): string {
  const long = secrets.filter((secret) => secret !== undefined && secret.length > 3) as string[];
  return long.reduce((rest, secret) => rest.replaceAll(secret, '[redacted]'), text);
}

function accept({ status, headers, text }: Answer, expect: Call['expect']): object {
  const body = parseObject(text);
  if (!body) {
    throw new ResponseError(status, 'the answer is no JSON object; check the base URL', requestIdOf(headers));
  }
  if (expect) {
    const [name, kind] = expect;
    const value = body[name];
    const fits = kind === 'array' ? Array.isArray(value) : kind === 'object' ? isObject(value) : typeof value === kind;
    if (!fits) {
      throw new ResponseError(status, `the answer has no ${name}, or not as the contract says`, requestIdOf(headers));
    }
  }
  return body;
}

function refusal(answer: Answer, hide: (text: string) => string): Error {
  if (answer.status >= 400) {
    return errorOf(answer, hide);
  }
  const what = 'the answer is a redirect, which is not followed; check the base URL';
  return new ResponseError(answer.status, what, requestIdOf(answer.headers));
}

/** The message of a failed fetch and that of its cause, which says what happened. Errors may come from another realm. */
function reasonOf(error: unknown): string {
  const texts: string[] = [];
  for (let next = error; isObject(next) && texts.length < 3; next = next['cause']) {
    if (typeof next['message'] === 'string' && next['message'] !== '') {
      texts.push(next['message']);
    }
  }
  return texts.join(': ') || 'the request failed';
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', abort, { once: true });
  });
}

/** One segment of a path. URLs resolve an empty segment, and one of dots, to another path. */
export function segment(name: string, value: string): string {
  if (!value || value === '.' || value === '..') {
    throw new ArgumentError(`${name} must not be empty, "." or ".."`);
  }
  return encodeURIComponent(value);
}
