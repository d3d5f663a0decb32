// What each generated client is held to: the types that the document describes, and one walk through the live service.
import assert from 'node:assert/strict';

export interface Receipt {
  state: string;
  revoked_at: string;
  revoked_by: string;
  data_planes: number;
  acknowledged: number;
  slowest_ms?: number;
  complete_by?: string;
  in_flight?: number;
  in_flight_from?: number;
  acknowledgements?: { data_plane: string; acknowledged: number; in_flight?: number; in_flight_from?: number }[];
  planes?: { name: string; state: string; ms?: number }[];
}

export interface DisableReceipt {
  state: string;
  disabled_at: string;
  disabled_by: string;
  data_planes: number;
  acknowledged: number;
  slowest_ms?: number;
  complete_by?: string;
  in_flight?: number;
  in_flight_from?: number;
  acknowledgements?: { data_plane: string; acknowledged: number; in_flight?: number; in_flight_from?: number }[];
  planes?: { name: string; state: string; ms?: number }[];
}

export interface Key {
  id: string;
  customer_id: string;
  project_id: string;
  provider: string;
  name: string;
  display_suffix: string;
  user_scope: boolean;
  created_at: string;
  created_by: string;
  revoked_at?: string;
  revoked_by?: string;
  last_used_at?: string;
  last_failure?: { at: string; status: number; reason?: string };
  serves?: boolean;
  not_serving_reason?: string;
  verification?: { verdict: string; reason?: string; checked_at: string };
  receipt?: Receipt;
  etag?: string;
  disabled?: boolean;
  disabled_at?: string;
  disabled_by?: string;
  expires_at?: string;
  stale_since?: string;
  order?: number;
  weight?: number;
  restrict?: { users?: string[]; models?: string[]; operations?: string[] };
  limit?: { requests_per_minute?: number; requests_per_day?: number; concurrent?: number };
  disable_receipt?: DisableReceipt;
  version?: number;
  state: string;
}

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance?: string;
  code: string;
  request_id: string;
  errors?: { field: string; message: string }[];
}

export interface RegisterRequest {
  provider: string;
  name: string;
  secret: string;
  user_scope?: boolean;
  verify?: boolean;
  force?: boolean;
  expires_at?: string;
  order?: number;
  weight?: number;
  restrict?: { users?: string[]; models?: string[]; operations?: string[] };
  limit?: { requests_per_minute?: number; requests_per_day?: number; concurrent?: number };
}

/**
 * Same is true where two types have the same members of the same types, at every level. `any` and `unknown` are the same
 * as nothing: a generator that gave up on a schema is noticed.
 */
export type Same<A, B> = 0 extends 1 & A
  ? false
  : unknown extends A
    ? false
    : [A, B] extends [(infer X)[], (infer Y)[]]
      ? Same<X, Y>
      : [A, B] extends [B, A]
        ? A extends object
          ? [keyof A, keyof B] extends [keyof B, keyof A]
            ? Members<A, B>
            : false
          : true
        : false;

type Members<A, B> = {
  [P in keyof A & keyof B]: Same<Exclude<A[P], undefined>, Exclude<B[P], undefined>>;
}[keyof A & keyof B] extends true | undefined
  ? true
  : false;

/** Compiles where all are true: `type Checks = Each<[Same<A, B>]>`. */
export type Each<T extends true[]> = T;

// The check itself, shown what it is for.
type Otherwise<T extends false[]> = T;
export type Noticed = Otherwise<
  [
    Same<Omit<Key, 'state'> & { state: unknown }, Key>,
    Same<Omit<Key, 'receipt'> & { receipt?: any }, Key>,
    Same<Omit<Key, 'revoked_at'>, Key>,
    Same<Omit<Problem, 'errors'> & { errors?: { field: string }[] }, Problem>,
  ]
>;

/** What a method throws for a problem that the document describes. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

/** The same calls with any of the generated clients. */
export interface Calls {
  register(body: RegisterRequest): Promise<Key>;
  get(id: string): Promise<Key>;
  list(): Promise<Key[]>;
  revoke(id: string): Promise<Receipt>;
}

export function setting(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set`);
  return value;
}

async function refusal(call: Promise<Key>): Promise<Problem> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof Refused, String(error));
    return error.problem;
  }
  assert.fail('nothing was refused');
}

/** Registers a key, reads it, finds it in the list and revokes it; then two refusals. */
export async function walk(calls: Calls): Promise<void> {
  const name = 'generated-client';
  const key = await calls.register({ provider: 'openai', name, secret: 'sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0001' });
  assert.deepEqual([key.name, key.display_suffix, key.state, key.user_scope], [name, '0001', 'active', false]);
  assert.deepEqual(await calls.get(key.id), key);
  assert.deepEqual((await calls.list()).filter(({ id }) => id === key.id), [key]);

  const receipt = await calls.revoke(key.id);
  assert.equal(receipt.state, 'complete');
  const revoked = await calls.get(key.id);
  assert.equal(revoked.state, 'revoked');
  assert.equal(revoked.receipt?.revoked_at, receipt.revoked_at);

  const absent = await refusal(calls.get('byok_01M83VVAHV8M2T5K7N9R4W1XYZ'));
  assert.deepEqual([absent.status, absent.code, absent.request_id.length], [404, 'not_found', 26]);
  const invalid = await refusal(calls.register({ provider: 'openai', name, secret: '' }));
  assert.deepEqual([invalid.status, invalid.code, invalid.errors?.[0]?.field], [400, 'invalid_argument', 'secret']);
}
