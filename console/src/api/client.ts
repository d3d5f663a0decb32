// The client of the public API. The credential lives here, in this module's memory, and nowhere else: no cookie, no storage.
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.gen.ts';
import { ServerClock } from '../logic/clock.ts';

export type Schemas = components['schemas'];
export type Key = Schemas['Key'];
export type Provider = Schemas['Provider'];
export type Policy = Schemas['Policy'];
export type Receipt = Schemas['Receipt'];
export type DisableReceipt = Schemas['DisableReceipt'];
export type RotationReceipt = Schemas['RotationReceipt'];
export type Event = Schemas['Event'];
export type Member = Schemas['Member'];
export type Usage = Schemas['Usage'];
export type Fetch = Schemas['Fetch'];
export type WhoAmI = Schemas['WhoAmIResponse'];
export type Problem = Schemas['Problem'];
export type ResolveReply = Schemas['ResolveResponse'];
export type Token = Schemas['Token'];
export type Role = Schemas['Role'];

/** A refusal by the service, with its problem document. */
export class Refusal extends Error {
  readonly problem: Problem;
  readonly retryAfter: number;
  constructor(problem: Problem, retryAfter = 0) {
    super(problem.detail);
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
  get status(): number { return this.problem.status; }
  /** The kind of problem, such as already-exists. */
  get kind(): string { return this.problem.type.replace(/^.*\//, ''); }
  /** What is wrong with a field of the request; empty if nothing is. */
  field(name: string): string {
    const found = this.problem.errors?.find((e) => e.field === name);
    return found ? found.message : '';
  }
}

/** No answer came: the network or the service is down. */
export class NoAnswer extends Error {
  constructor() { super('The service does not answer.'); }
}

let credential = '';
let listeners: (() => void)[] = [];
export const clock = new ServerClock();

/** What the app shows of the connection and the session. A new object with each change. */
export interface Connection {
  /** The session, absent before the sign-in. */
  who?: WhoAmI;
  /** The service has refused the credential of a session. */
  ended: boolean;
  /** Since when no request has been answered; 0 while they are. */
  downSince: number;
  /** When a request was last answered. */
  lastAnswer: number;
}
let connection: Connection = { ended: false, downSince: 0, lastAnswer: 0 };

export const connections = {
  get: () => connection,
  subscribe(listener: () => void) {
    listeners = [...listeners, listener];
    return () => { listeners = listeners.filter((l) => l !== listener); };
  },
};

function change(changes: Partial<Connection>) {
  connection = { ...connection, ...changes };
  for (const listener of listeners) listener();
}

/** Sends a request and notes whether the service answers. */
async function send(request: Request): Promise<Response> {
  const sentWith = credential;
  if (credential) request.headers.set('Authorization', `Bearer ${credential}`);
  const sent = Date.now();
  try {
    const response = await fetch(request);
    clock.learn(response.headers.get('Date'), sent, Date.now());
    const wasDown = connection.downSince !== 0;
    connection = { ...connection, lastAnswer: Date.now() };
    if (wasDown) change({ downSince: 0 });
    if (response.status === 401 && connection.who && sentWith === credential) endSession();
    return response;
  } catch (error) {
    if (!request.signal.aborted && connection.downSince === 0) change({ downSince: Date.now() });
    throw error;
  }
}

function endSession() {
  credential = '';
  change({ ended: true });
}

export const api = createClient<paths>({ baseUrl: location.origin, fetch: send, redirect: 'error', cache: 'no-store', credentials: 'omit' });

/** Returns what the service answered, or throws a Refusal or NoAnswer. */
export async function unwrap<T>(pending: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  let result;
  try {
    result = await pending;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new NoAnswer();
  }
  if (result.data !== undefined && result.response.ok) return result.data;
  const { status, headers } = result.response;
  const given = result.error as Partial<Problem> | undefined;
  const problem: Problem = typeof given?.detail === 'string' && typeof given.type === 'string'
    ? given as Problem
    : { type: 'about:blank', title: 'Unexpected answer', status, code: 'internal', request_id: headers.get('X-Request-Id') ?? '',
      detail: `Something between this page and the service answered with status ${status}.` };
  throw new Refusal(problem, Number(headers.get('Retry-After')) || 0);
}

/** Opens a session with an API key or session token. Throws what the service answers; then nothing is kept. */
export async function signIn(given: string): Promise<WhoAmI> {
  const before = connection.who;
  credential = given;
  connection = { ...connection, who: undefined };
  try {
    const who = await unwrap(api.GET('/v1/whoami'));
    change({ who, ended: false });
    return who;
  } catch (error) {
    credential = '';
    change({ who: before });
    throw error;
  }
}

/** Shows another project of the user's; the role is the one that they have there. */
export function switchProject(project_id: string, role: Role) {
  if (connection.who) change({ who: { ...connection.who, project_id, role } });
}

/** Forgets the credential. */
export function signOut() {
  credential = '';
  change({ who: undefined, ended: false });
}

/** The path parameters of the session's project. */
export function project() {
  const { customer_id, project_id } = connection.who ?? { customer_id: '-', project_id: '-' };
  return { customer_id, project_id };
}
