/** Plays the vectors that all SDKs share. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { test } from 'node:test';
import * as sdk from '../src/index.js';
import { bodyOf, serve } from './server.js';

interface Expected {
  method: string;
  path: string;
  query: Record<string, string>;
  headers: Record<string, string>;
  body: unknown;
}

interface Reply {
  status: number;
  headers: Record<string, string>;
  body?: unknown;
  body_text?: string;
  close?: boolean;
  truncate?: boolean;
}

interface Failure {
  kind: 'api' | 'response' | 'connection' | 'argument';
  class?: string;
  code?: string;
  status?: number;
  type?: string;
  title?: string;
  detail?: string;
  request_id?: string;
  errors?: sdk.FieldError[];
  retry_after?: number | null;
  message_contains: string[];
  unknown?: Record<string, unknown>;
}

interface Vector {
  name: string;
  call: string;
  args: Record<string, unknown>;
  options: { max_retries?: number };
  exchanges: { request: Expected; response: Reply }[];
  result?: unknown;
  error?: Failure;
  partial?: unknown[];
  unknown?: Record<string, unknown>;
  elapsed_ms?: { min?: number; max?: number };
}

const text = readFileSync(new URL('../../vectors/vectors.json', import.meta.url), 'utf8');
const vectors = JSON.parse(text) as Vector[];

type Collect = (items: AsyncIterable<unknown>) => Promise<unknown[]>;

/** Makes a vector's call with its arguments in this package's order. */
function invoke(client: sdk.Client, call: string, args: Record<string, unknown>, collect: Collect): Promise<unknown> {
  const given = new Set(Object.keys(args));
  const take = (name: string): never => {
    given.delete(name);
    return args[name] as never;
  };
  const at = (): [never, never] => [take('customer_id'), take('project_id')];
  const page = (): sdk.PageOptions => ({ pageSize: take('page_size'), pageToken: take('page_token') });
  const list = (): sdk.ListOptions => ({ ...page(), provider: take('provider'), state: take('state') });
  const usage = (): sdk.UsageOptions => ({
    ...page(),
    keyId: take('key_id'),
    userId: take('user_id'),
    provider: take('provider'),
    from: take('from'),
    to: take('to'),
  });
  const fetches = (): sdk.FetchOptions => ({
    ...usage(),
    dataPlane: take('data_plane'),
    decision: take('decision'),
  });
  const calls: Record<string, () => Promise<unknown>> = {
    'aikeys.register': () =>
      client.aikeys.register(...at(), take('provider'), take('name'), take('secret'), take('user_scope'), {
        idempotencyKey: take('idempotency_key'),
        expiresAt: take('expires_at'),
        order: take('order'),
        weight: take('weight'),
        restrict: take('restrict'),
        limit: take('limit'),
      }),
    'aikeys.get': () => client.aikeys.get(...at(), take('id')),
    'aikeys.list': () => client.aikeys.list(...at(), list()),
    'aikeys.iterate': () => collect(client.aikeys.iterate(...at(), list())),
    'aikeys.update': () =>
      client.aikeys.update(
        ...at(),
        take('id'),
        {
          name: take('name'),
          disabled: take('disabled'),
          expiresAt: take('expires_at'),
          order: take('order'),
          weight: take('weight'),
          restrict: take('restrict'),
          limit: take('limit'),
        },
        { ifMatch: take('if_match'), wait: take('wait') },
      ),
    'aikeys.revoke': () => client.aikeys.revoke(...at(), take('id'), { wait: take('wait') }),
    'aikeys.rotate': () =>
      client.aikeys.rotate(...at(), take('id'), take('secret'), {
        activate: take('activate'),
        overlap: take('overlap'),
        expiresAt: take('expires_at'),
        idempotencyKey: take('idempotency_key'),
        ifMatch: take('if_match'),
        wait: take('wait'),
      }),
    'aikeys.versions': () => client.aikeys.versions(...at(), take('id'), { wait: take('wait') }),
    'aikeys.activate_version': () =>
      client.aikeys.activateVersion(...at(), take('id'), take('version'), { ifMatch: take('if_match'), wait: take('wait') }),
    'aikeys.rollback': () =>
      client.aikeys.rollback(...at(), take('id'), { ifMatch: take('if_match'), wait: take('wait') }),
    'aikeys.destroy_version': () =>
      client.aikeys.destroyVersion(...at(), take('id'), take('version'), { ifMatch: take('if_match') }),
    'aikeys.verify': () => client.aikeys.verify(...at(), take('id')),
    'aikeys.resolve': () =>
      client.aikeys.resolve(...at(), take('provider'), { explain: take('explain'), userId: take('user_id'), limited: take('limited') }),
    'policy.get': () => client.policy.get(...at()),
    'policy.set': () =>
      client.policy.set(...at(), take('user_keys'), take('user_keys_by_provider'), take('on_bad_key'), undefined, { onLimited: take('on_limited'), removalGraceDays: take('removal_grace_days') }),
    'events.list': () => client.events.list(...at(), page()),
    'events.iterate': () => collect(client.events.iterate(...at(), page())),
    'fetches.list': () => client.fetches.list(...at(), fetches()),
    'fetches.iterate': () => collect(client.fetches.iterate(...at(), fetches())),
    'usage.list': () => client.usage.list(...at(), usage()),
    'usage.iterate': () => collect(client.usage.iterate(...at(), usage())),
    'members.list': () => client.members.list(...at(), page()),
    'members.iterate': () => collect(client.members.iterate(...at(), page())),
    'members.set': () => client.members.set(...at(), take('user_id'), take('role')),
    'members.remove': () => client.members.remove(...at(), take('user_id')),
    'members.impact': () => client.members.impact(...at(), take('user_id')),
    'members.restore': () => client.members.restore(...at(), take('user_id')),
    'leaks.find': () => client.leaks.find(...at(), take('values')),
    'leaks.revoke': () => client.leaks.revoke(...at(), take('values'), { source: take('source'), wait: take('wait') }),
    'projects.list': () => client.projects.list(page()),
    'tokens.list': () => client.tokens.list({ ...page(), state: take('state') }),
    'tokens.list_in_project': () => client.tokens.listInProject(...at(), { ...page(), state: take('state') }),
    'tokens.create': () =>
      client.tokens.create(take('name'), { projects: take('projects'), expiresAt: take('expires_at') }),
    'tokens.revoke': () => client.tokens.revoke(take('id'), { cascade: take('cascade'), wait: take('wait') }),
    'tokens.revoke_in_project': () =>
      client.tokens.revokeInProject(...at(), take('id'), { cascade: take('cascade'), wait: take('wait') }),
    'providers.list': () => client.providers.list(),
    'providers.list_custom': () => client.providers.listCustom(...at()),
    'providers.add_custom': () =>
      client.providers.addCustom(...at(), take('slug'), take('base_url'), {
        displayName: take('display_name'), dialect: take('dialect'), authStyle: take('auth_style'), header: take('header'),
      }),
    'providers.remove_custom': () => client.providers.removeCustom(...at(), take('slug')),
    sign_in_options: () => client.signInOptions(),
    whoami: () => client.whoAmI(),
  };
  const made = calls[call]?.();
  assert.ok(made, `this test knows no ${call}`);
  assert.deepEqual([...given], [], 'arguments that the call does not take');
  return made;
}

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

async function check(request: IncomingMessage, expected: Expected, uuids: Set<string>): Promise<void> {
  const [path, query = ''] = (request.url ?? '').split('?');
  assert.equal(request.method, expected.method);
  assert.equal(path, expected.path);
  assert.deepEqual(Object.fromEntries(new URLSearchParams(query)), expected.query);
  for (const [name, value] of Object.entries(expected.headers)) {
    const got = request.headers[name];
    if (value === '$uuid') {
      assert.match(String(got), uuid);
      uuids.add(String(got));
    } else {
      assert.equal(got, value, name);
    }
  }
  const body = await bodyOf(request);
  assert.deepEqual(body === '' ? null : JSON.parse(body), expected.body);
}

function reply(response: ServerResponse, { status, headers, body, body_text, close, truncate }: Reply): void {
  if (close) {
    response.destroy();
    return;
  }
  const content = Buffer.from(body_text ?? JSON.stringify(body));
  response.writeHead(status, { ...headers, 'content-length': content.length });
  if (truncate) {
    response.write(content.subarray(0, content.length / 2), () => response.destroy());
  } else {
    response.end(content);
  }
}

const classes: Record<string, typeof sdk.APIError> = {
  invalid_argument: sdk.InvalidArgumentError,
  unauthenticated: sdk.UnauthenticatedError,
  permission_denied: sdk.PermissionDeniedError,
  not_found: sdk.NotFoundError,
  already_exists: sdk.AlreadyExistsError,
  failed_precondition: sdk.FailedPreconditionError,
  resource_exhausted: sdk.ResourceExhaustedError,
  unavailable: sdk.UnavailableError,
  internal: sdk.InternalError,
};

const kinds = {
  api: sdk.APIError,
  response: sdk.ResponseError,
  connection: sdk.ConnectionError,
  argument: sdk.ArgumentError,
};

function checkFailure(thrown: unknown, expected: Failure): void {
  assert.ok(thrown instanceof kinds[expected.kind], `${String(thrown)} is no ${expected.kind} error`);
  for (const part of expected.message_contains) {
    assert.ok(thrown.message.includes(part), `${thrown.message} does not say ${part}`);
  }
  if (thrown instanceof sdk.ResponseError) {
    assert.equal(thrown.status, expected.status);
  }
  if (!(thrown instanceof sdk.APIError)) {
    return;
  }
  const Class = classes[expected.class ?? ''];
  assert.equal(thrown.constructor, Class);
  assert.equal(thrown.name, Class?.name);
  const fields = {
    status: thrown.status,
    code: thrown.code,
    type: thrown.type,
    title: thrown.title,
    detail: thrown.detail,
    request_id: thrown.requestId,
    errors: thrown.errors,
    retry_after: thrown.retryAfter ?? null,
  };
  for (const [name, value] of Object.entries(fields)) {
    if (name in expected) {
      assert.deepEqual(value, expected[name as keyof Failure], name);
    }
  }
  checkUnknown(thrown.problem, expected.unknown);
}

/** The unknown fields of a vector are by path: `events.0.actor.device`. */
function checkUnknown(value: unknown, unknown: Record<string, unknown> = {}): void {
  for (const [path, expected] of Object.entries(unknown)) {
    const got = path.split('.').reduce((inner, name) => (inner as Record<string, unknown>)[name], value);
    assert.deepEqual(got, expected, path);
  }
}

/** Every member that the vector names is there as it says; further ones are the unknown fields. */
function checkResult(got: unknown, expected: unknown, exact: boolean): void {
  if (exact) {
    assert.deepEqual(got, expected);
  } else if (typeof expected === 'object' && expected !== null) {
    for (const [name, value] of Object.entries(expected)) {
      checkResult((got as Record<string, unknown>)[name], value, false);
    }
  } else {
    assert.equal(got, expected);
  }
}

assert.ok(vectors.length > 40);
for (const vector of vectors) {
  test(`vector: ${vector.name}`, async (t) => {
    const uuids = new Set<string>();
    const faults: unknown[] = [];
    let came = 0;
    const baseUrl = await serve(t, (request, response) => {
      const exchange = vector.exchanges[came++];
      assert.ok(exchange, 'a request more than the vector has');
      check(request, exchange.request, uuids)
        .catch((fault: unknown) => faults.push(fault))
        .finally(() => {
          reply(response, exchange.response);
        });
    });
    const { max_retries } = vector.options;
    const client = new sdk.Client({ baseUrl, apiKey: 'ak_vector_key', maxRetries: max_retries });
    const partial: unknown[] = [];
    const collect: Collect = async (items) => {
      for await (const item of items) {
        partial.push(item);
      }
      return partial;
    };
    const began = performance.now();
    let result: unknown;
    let thrown: unknown;
    try {
      result = await invoke(client, vector.call, vector.args, collect);
    } catch (error) {
      thrown = error;
    }
    const elapsed = performance.now() - began;
    assert.deepEqual(faults, []);
    assert.equal(came, vector.exchanges.length);
    assert.ok(uuids.size <= 1, 'one idempotency key for the whole call');
    if (vector.error) {
      checkFailure(thrown, vector.error);
      assert.deepEqual(partial, vector.partial ?? []);
    } else {
      assert.ifError(thrown);
      checkResult(result, vector.result, vector.unknown === undefined);
      checkUnknown(result, vector.unknown);
    }
    assert.ok(elapsed >= (vector.elapsed_ms?.min ?? 0), `took ${elapsed} ms`);
    assert.ok(elapsed <= (vector.elapsed_ms?.max ?? 10_000), `took ${elapsed} ms`);
  });
}
