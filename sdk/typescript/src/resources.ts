/** The methods of the API, in groups. `''` for a customer or a project stands for the session's own. */

import { ArgumentError } from './errors.js';
import { segment, type Transport } from './transport.js';
import type * as t from './types.js';
import { freshKey } from './uuid.js';

type Options = t.CallOptions;

function project(customerId: string, projectId: string): string {
  const customer = segment('customer_id', customerId || '-');
  return `/v1/customers/${customer}/projects/${segment('project_id', projectId || '-')}`;
}

const pageQuery = (options: t.PageOptions) =>
  ({ page_size: options.pageSize, page_token: options.pageToken }) satisfies Record<keyof t.PageQuery, unknown>;

/** The default size of an iterator's pages. */
const iteratorPageSize = 100;

interface Page {
  next_page_token?: string;
}

/** Yields the items of all pages. It requests each page when it is needed. */
async function* iterate<P extends Page, Item>(
  options: t.PageOptions,
  list: (options: t.PageOptions) => Promise<P>,
  itemsOf: (page: P) => Item[],
): t.Items<Item> {
  let pageToken = options.pageToken;
  do {
    const page = await list({ ...options, pageSize: options.pageSize ?? iteratorPageSize, pageToken });
    yield* itemsOf(page);
    pageToken = page.next_page_token;
  } while (pageToken);
}

/** Returns the page that was asked for, or otherwise the items of all pages as one. */
async function collect<P extends Page>(
  options: t.PageOptions,
  list: (options: t.PageOptions) => Promise<P>,
  itemsOf: (page: P) => unknown[],
): Promise<P> {
  const all = await list(options);
  if (options.pageSize !== undefined || options.pageToken !== undefined) {
    return all;
  }
  while (all.next_page_token) {
    const page = await list({ ...options, pageToken: all.next_page_token });
    for (const item of itemsOf(page)) {
      itemsOf(all).push(item);
    }
    if (page.next_page_token === undefined) {
      delete all.next_page_token;
    } else {
      all.next_page_token = page.next_page_token;
    }
  }
  return all;
}

/** Provider keys. Only their metadata ever comes back. */
export class AIKeys {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Seals a provider's key and stores it. Safe to repeat: see `idempotencyKey`. */
  register(params: t.RegisterParams, options?: t.RegisterOptions): Promise<t.RegisterResponse>;
  /** The same with positional arguments. */
  register(
    customerId: string,
    projectId: string,
    provider: t.AIKeyProvider,
    name: string,
    secret: string,
    userScope: boolean,
    options?: t.RegisterOptions,
  ): Promise<t.RegisterResponse>;
  async register(
    first: t.RegisterParams | string,
    second?: t.RegisterOptions | string,
    provider: t.AIKeyProvider = '',
    name = '',
    secret = '',
    userScope = false,
    options?: t.RegisterOptions,
  ): Promise<t.RegisterResponse> {
    if (typeof first === 'object') {
      return this.#register(first, second as t.RegisterOptions | undefined);
    }
    return this.#register({ customerId: first, projectId: second as string, provider, name, secret, userScope }, options);
  }

  async #register(params: t.RegisterParams, options: t.RegisterOptions = {}): Promise<t.RegisterResponse> {
    const { customerId = '', projectId = '', provider, name, secret, userScope = false } = params;
    const body: t.RegisterRequest = { provider, name, secret, user_scope: userScope };
    if (options.verify) body.verify = true;
    if (options.force) body.force = true;
    if (options.expiresAt !== undefined) body.expires_at = timeText(options.expiresAt);
    if (options.order !== undefined) body.order = options.order;
    if (options.weight !== undefined) body.weight = options.weight;
    if (options.restrict !== undefined) body.restrict = options.restrict;
    if (options.limit !== undefined) body.limit = options.limit;
    const path = `${project(customerId, projectId)}/aikeys`;
    const headers = { 'content-type': 'application/json', ...idempotencyHeader(options.idempotencyKey) };
    return this.#transport.send({ method: 'POST', path, body, headers, secret, expect: ['key', 'object'] }, options);
  }

  /** Returns one key's metadata; with `wait`, once its receipt is complete. */
  async get(customerId: string, projectId: string, id: string, options: t.GetOptions = {}): Promise<t.GetResponse> {
    const path = `${project(customerId, projectId)}/aikeys/${segment('id', id)}`;
    const wait = waitText(options.wait);
    const query = { wait } satisfies Record<keyof t.GetQuery, unknown>;
    const extraMs = waitMs(wait);
    return this.#transport.send({ method: 'GET', path, query, extraMs, expect: ['key', 'object'] }, options);
  }

  /** Lists the project's keys and the caller's own, newest first; all of them, or the page that is asked for. */
  async list(customerId: string, projectId: string, options: t.ListOptions = {}): Promise<t.ListResponse> {
    const path = `${project(customerId, projectId)}/aikeys`;
    return collect<t.ListResponse>(
      options,
      (page) => {
        const query = { provider: options.provider, state: options.state, ...pageQuery(page) };
        query satisfies Record<keyof t.ListQuery, unknown>;
        return this.#transport.send({ method: 'GET', path, query, expect: ['keys', 'array'] }, options);
      },
      (page) => page.keys,
    );
  }

  /** Yields all keys, page by page. */
  iterate(customerId: string, projectId: string, options: t.ListOptions = {}): t.Items<t.AIKey> {
    return iterate(
      options,
      (page) => this.list(customerId, projectId, { ...options, ...page }),
      (page) => page.keys,
    );
  }

  /**
   * Changes the given properties of a key, and returns the key. If it is then disabled, it comes with its `disable_receipt`, for which
   * `wait` waits.
   */
  async update(
    customerId: string,
    projectId: string,
    id: string,
    changes: t.KeyChanges,
    options: t.UpdateOptions = {},
  ): Promise<t.UpdateResponse> {
    const { name, disabled, expiresAt, order, weight, restrict, limit } = changes;
    const body: t.UpdateRequest = {};
    if (name !== undefined) body.name = name;
    if (disabled !== undefined) body.disabled = disabled;
    if (expiresAt !== undefined) body.expires_at = expiresAt === null ? null : timeText(expiresAt);
    if (order !== undefined) body.order = order;
    if (weight !== undefined) body.weight = weight;
    if (restrict !== undefined) body.restrict = restrict;
    if (limit !== undefined) body.limit = limit;
    if (Object.keys(body).length === 0) {
      throw new ArgumentError('changes must name what to change');
    }
    const path = `${project(customerId, projectId)}/aikeys/${segment('id', id)}`;
    const headers = { 'content-type': 'application/json', ...ifMatchHeader(options.ifMatch) };
    const wait = waitText(options.wait);
    const query = { wait } satisfies Record<keyof t.UpdateQuery, unknown>;
    const call = { path, query, body, headers, extraMs: waitMs(wait) };
    return this.#transport.send({ method: 'PATCH', ...call, expect: ['key', 'object'] }, options);
  }

  /** Revokes a key permanently, and returns the receipt. */
  async revoke(
    customerId: string,
    projectId: string,
    id: string,
    options: t.RevokeOptions = {},
  ): Promise<t.RevokeResponse> {
    const path = `${project(customerId, projectId)}/aikeys/${segment('id', id)}`;
    const wait = waitText(options.wait);
    const query = { wait } satisfies Record<keyof t.RevokeQuery, unknown>;
    const extraMs = waitMs(wait);
    return this.#transport.send({ method: 'DELETE', path, query, extraMs, expect: ['receipt', 'object'] }, options);
  }

  /**
   * Seals another secret as the key's next version. If it is active, it comes with a receipt, for which `wait` waits and which says when
   * the old secret may be deleted at the provider. Safe to repeat: see `idempotencyKey`.
   */
  async rotate(
    customerId: string,
    projectId: string,
    id: string,
    secret: string,
    options: t.RotateOptions = {},
  ): Promise<t.RotateResponse> {
    const { activate, expiresAt } = options;
    const body: t.RotateRequest = { secret };
    if (activate !== undefined) body.activate = activate;
    const overlap = overlapText(options.overlap);
    if (overlap !== undefined) body.overlap = overlap;
    if (expiresAt !== undefined) body.expires_at = expiresAt === null ? null : timeText(expiresAt);
    const path = `${project(customerId, projectId)}/aikeys/${segment('id', id)}/rotate`;
    const headers = {
      'content-type': 'application/json',
      ...idempotencyHeader(options.idempotencyKey),
      ...ifMatchHeader(options.ifMatch),
    };
    const wait = waitText(options.wait);
    const query = { wait } satisfies Record<keyof t.RotateQuery, unknown>;
    const call = { path, query, body, headers, secret, extraMs: waitMs(wait) };
    return this.#transport.send({ method: 'POST', ...call, expect: ['version', 'object'] }, options);
  }

  /** Lists a key's versions, newest first, with the receipt of its last rotation or rollback, for which `wait` waits. */
  async versions(
    customerId: string,
    projectId: string,
    id: string,
    options: t.RevokeOptions = {},
  ): Promise<t.VersionsResponse> {
    const path = `${project(customerId, projectId)}/aikeys/${segment('id', id)}/versions`;
    const wait = waitText(options.wait);
    const call = { path, query: { wait }, extraMs: waitMs(wait) };
    return this.#transport.send({ method: 'GET', ...call, expect: ['versions', 'array'] }, options);
  }

  /** Activates a pending version, or a retiring one again. */
  async activateVersion(
    customerId: string,
    projectId: string,
    id: string,
    version: number,
    options: t.ChangeVersionOptions = {},
  ): Promise<t.RotateResponse> {
    const path = `${project(customerId, projectId)}/aikeys/${segment('id', id)}/versions/${versionText(version)}/activate`;
    return this.#change(path, options);
  }

  /** Activates the version that the active one replaced, while it is still retiring. */
  async rollback(
    customerId: string,
    projectId: string,
    id: string,
    options: t.ChangeVersionOptions = {},
  ): Promise<t.RotateResponse> {
    return this.#change(`${project(customerId, projectId)}/aikeys/${segment('id', id)}/rollback`, options);
  }

  async #change(path: string, options: t.ChangeVersionOptions): Promise<t.RotateResponse> {
    const wait = waitText(options.wait);
    const call = { path, query: { wait }, headers: ifMatchHeader(options.ifMatch), extraMs: waitMs(wait) };
    return this.#transport.send({ method: 'POST', ...call, expect: ['version', 'object'] }, options);
  }

  /** Destroys a version that is not active. It can't be activated again. */
  async destroyVersion(
    customerId: string,
    projectId: string,
    id: string,
    version: number,
    options: Omit<t.ChangeVersionOptions, 'wait'> = {},
  ): Promise<t.DestroyVersionResponse> {
    const path = `${project(customerId, projectId)}/aikeys/${segment('id', id)}/versions/${versionText(version)}`;
    const headers = ifMatchHeader(options.ifMatch);
    return this.#transport.send({ method: 'DELETE', path, headers, expect: ['version', 'object'] }, options);
  }

  /** Tests a stored key at its provider, and stores the verdict with the key, which stays in use. At most once in ten seconds. */
  async verify(customerId: string, projectId: string, id: string, options?: Options): Promise<t.VerifyResponse> {
    const path = `${project(customerId, projectId)}/aikeys/${segment('id', id)}/verify`;
    return this.#transport.send({ method: 'POST', path, expect: ['verification', 'object'] }, options);
  }

  /** Shows which key would serve the caller's requests to a provider now, and why; with `userId`, another member's requests. */
  async resolve(
    customerId: string,
    projectId: string,
    provider: t.AIKeyProvider,
    options: t.ResolveOptions = {},
  ): Promise<t.ResolveResponse> {
    const path = `${project(customerId, projectId)}/resolve`;
    const query = { provider, explain: options.explain ? 'true' : undefined, user_id: options.userId, limited: options.limited };
    query satisfies Record<keyof t.ResolveQuery, unknown>;
    return this.#transport.send({ method: 'GET', path, query, expect: ['reason', 'string'] }, options);
  }
}

function idempotencyHeader(given: string | undefined): Record<string, string> {
  const idempotencyKey = given || freshKey();
  if (!/^[!-~]{1,255}$/.test(idempotencyKey)) {
    throw new ArgumentError('idempotencyKey must be 1 to 255 visible ASCII characters without spaces');
  }
  return { 'idempotency-key': idempotencyKey };
}

function ifMatchHeader(ifMatch: string | undefined): Record<string, string> {
  if (ifMatch === undefined) {
    return {};
  }
  if (!/^[ -~]{1,256}$/.test(ifMatch)) {
    throw new ArgumentError("ifMatch must be a key's etag");
  }
  return { 'if-match': ifMatch };
}

function versionText(version: number): string {
  if (!Number.isInteger(version) || version < 1) {
    throw new ArgumentError('version must be a positive integer');
  }
  return String(version);
}

/** The time for which a version is kept, in the service's form; a number is in milliseconds. */
function overlapText(overlap: string | number | undefined): string | undefined {
  return typeof overlap === 'number' ? `${Math.ceil(overlap / 1_000)}s` : overlap;
}

/** A duration in the service's form; a number is in milliseconds. */
function waitText(wait: string | number | undefined): string | undefined {
  return typeof wait === 'number' ? `${Math.ceil(wait)}ms` : wait;
}

/** A duration such as `500ms` or `2s` in milliseconds; 0 for a text that the service will refuse. */
function waitMs(wait: string | undefined): number {
  const [, amount, unit] = /^(\d{1,5})(ms|s)$/.exec(wait ?? '') ?? [];
  return Number(amount ?? 0) * (unit === 's' ? 1_000 : 1);
}

/** The project's policy. */
export class PolicyMethods {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Returns the policy in force. */
  async get(customerId: string, projectId: string, options?: Options): Promise<t.PolicyResponse> {
    const path = `${project(customerId, projectId)}/policy`;
    return this.#transport.send({ method: 'GET', path, expect: ['policy', 'object'] }, options);
  }

  /** Replaces the whole policy. Values that are `undefined` return to their defaults. */
  async set(
    customerId: string,
    projectId: string,
    userKeys?: t.UserKeys,
    userKeysByProvider?: t.UserKeysByProvider,
    onBadKey?: t.OnBadKey,
    operations?: t.Operations,
    options: t.SetPolicyOptions = {},
  ): Promise<t.PolicyResponse> {
    const path = `${project(customerId, projectId)}/policy`;
    const body = {
      user_keys: userKeys,
      user_keys_by_provider: userKeysByProvider,
      on_bad_key: onBadKey,
      on_limited: options.onLimited,
      operations,
      removal_grace_days: options.removalGraceDays,
    };
    body satisfies Record<keyof t.PolicyRequest, unknown>;
    const headers = { 'content-type': 'application/json' };
    return this.#transport.send({ method: 'PUT', path, body, headers, expect: ['policy', 'object'] }, options);
  }
}

/** The project's audit trail. */
export class Events {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Returns a page of the audit trail, newest first. */
  async list(customerId: string, projectId: string, options: t.EventOptions = {}): Promise<t.ListEventsResponse> {
    const path = `${project(customerId, projectId)}/events`;
    const { keyId, actor, type, outcome, provider } = options;
    const filter = { key_id: keyId, actor, type, outcome, provider, from: time(options.from), to: time(options.to) };
    const query = { ...filter, ...pageQuery(options) };
    query satisfies Record<keyof t.EventQuery, unknown>;
    return this.#transport.send({ method: 'GET', path, query, expect: ['events', 'array'] }, options);
  }

  /** Yields the whole audit trail, page by page. */
  iterate(customerId: string, projectId: string, options: t.EventOptions = {}): t.Items<t.Event> {
    return iterate(
      options,
      (page) => this.list(customerId, projectId, { ...options, ...page }),
      (page) => page.events,
    );
  }
}

/** The records of which data planes fetched which keys. Owners only. */
export class Fetches {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Returns a page of the records, newest first. */
  async list(customerId: string, projectId: string, options: t.FetchOptions = {}): Promise<t.ListFetchesResponse> {
    const path = `${project(customerId, projectId)}/fetches`;
    const { keyId, userId, dataPlane, provider, decision } = options;
    const who = { key_id: keyId, user_id: userId, data_plane: dataPlane, provider, decision };
    const query = { ...who, from: time(options.from), to: time(options.to), ...pageQuery(options) };
    query satisfies Record<keyof t.FetchQuery, unknown>;
    return this.#transport.send({ method: 'GET', path, query, expect: ['fetches', 'array'] }, options);
  }

  /** Yields all records, page by page. */
  iterate(customerId: string, projectId: string, options: t.FetchOptions = {}): t.Items<t.Fetch> {
    return iterate(
      options,
      (page) => this.list(customerId, projectId, { ...options, ...page }),
      (page) => page.fetches,
    );
  }
}

/** How often each key served each user. */
export class Usage {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /**
   * Lists the usage, newest day first; all of it, or the page that is asked for. An owner gets the project's, other members
   * what was served to them.
   */
  async list(customerId: string, projectId: string, options: t.UsageOptions = {}): Promise<t.ListUsageResponse> {
    const path = `${project(customerId, projectId)}/usage`;
    const { keyId, userId, provider } = options;
    const filter = { key_id: keyId, user_id: userId, provider, from: time(options.from), to: time(options.to) };
    return collect<t.ListUsageResponse>(
      options,
      (page) => {
        const query = { ...filter, ...pageQuery(page) };
        query satisfies Record<keyof t.UsageQuery, unknown>;
        return this.#transport.send({ method: 'GET', path, query, expect: ['usage', 'array'] }, options);
      },
      (page) => page.usage,
    );
  }

  /** Yields all entries, page by page. */
  iterate(customerId: string, projectId: string, options: t.UsageOptions = {}): t.Items<t.UsageEntry> {
    return iterate(
      options,
      (page) => this.list(customerId, projectId, { ...options, ...page }),
      (page) => page.usage,
    );
  }
}

const timeText = (at: string | Date): string => (typeof at === 'object' ? at.toISOString() : at);
const time = (at: string | Date | undefined) => (at === undefined ? undefined : timeText(at));

/** The project's members and their roles. */
export class Members {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Lists the members, sorted by user id; all of them, or the page that is asked for. */
  async list(customerId: string, projectId: string, options: t.PageOptions = {}): Promise<t.ListMembersResponse> {
    const path = `${project(customerId, projectId)}/members`;
    return collect<t.ListMembersResponse>(
      options,
      (page) => {
        const query = pageQuery(page);
        return this.#transport.send({ method: 'GET', path, query, expect: ['members', 'array'] }, options);
      },
      (page) => page.members,
    );
  }

  /** Yields all members, page by page. */
  iterate(customerId: string, projectId: string, options: t.PageOptions = {}): t.Items<t.Member> {
    return iterate(
      options,
      (page) => this.list(customerId, projectId, page),
      (page) => page.members,
    );
  }

  /** Adds a user to the project, or changes a member's role. */
  async set(
    customerId: string,
    projectId: string,
    userId: string,
    role: t.Role,
    options?: Options,
  ): Promise<t.MemberResponse> {
    const path = `${project(customerId, projectId)}/members/${segment('user_id', userId)}`;
    const body: t.SetMemberRequest = { role };
    const headers = { 'content-type': 'application/json' };
    return this.#transport.send({ method: 'PUT', path, body, headers, expect: ['member', 'object'] }, options);
  }

  /** Removes a member from the project, and suspends their own keys and API keys there. `restore` can undo it for a time. */
  async remove(
    customerId: string,
    projectId: string,
    userId: string,
    options: t.RemoveMemberOptions = {},
  ): Promise<t.RemoveMemberResponse> {
    const path = `${project(customerId, projectId)}/members/${segment('user_id', userId)}`;
    const wait = waitText(options.wait);
    const query = { grace_days: options.graceDays, wait } satisfies Record<keyof t.RemoveMemberQuery, unknown>;
    return this.#transport.send({ method: 'DELETE', path, query, extraMs: waitMs(wait) }, options);
  }

  /** Shows what the removal of a member would do. Owners only. */
  async impact(
    customerId: string,
    projectId: string,
    userId: string,
    options?: Options,
  ): Promise<t.MemberImpactResponse> {
    const path = `${project(customerId, projectId)}/members/${segment('user_id', userId)}/impact`;
    return this.#transport.send({ method: 'GET', path, expect: ['member', 'object'] }, options);
  }

  /** Undoes the last removal of a user, if that is still possible. */
  async restore(
    customerId: string,
    projectId: string,
    userId: string,
    options?: Options,
  ): Promise<t.RestoreMemberResponse> {
    const path = `${project(customerId, projectId)}/members/${segment('user_id', userId)}/restore`;
    return this.#transport.send({ method: 'POST', path, expect: ['member', 'object'] }, options);
  }
}

/** Keys that have leaked. The methods take at most 100 values. Owners only. */
export class Leaks {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Finds the keys and API keys whose secrets are among the values. A value may be a line of a file that contains one. */
  async find(customerId: string, projectId: string, values: string[], options: Options = {}): Promise<t.LeaksResponse> {
    return this.#send(customerId, projectId, { values, revoke: false }, options);
  }

  /**
   * Revokes the keys and API keys that `find` would return. If a value is the secret of an inactive version, it destroys only that
   * version.
   */
  async revoke(
    customerId: string,
    projectId: string,
    values: string[],
    options: t.RevokeLeaksOptions = {},
  ): Promise<t.LeaksResponse> {
    const body: t.LeaksRequest = { values, revoke: true };
    if (options.source !== undefined) body.source = options.source;
    return this.#send(customerId, projectId, body, options);
  }

  #send(customerId: string, projectId: string, body: t.LeaksRequest, options: t.RevokeLeaksOptions): Promise<t.LeaksResponse> {
    const path = `${project(customerId, projectId)}/leaks`;
    const wait = waitText(options.wait);
    const query = { wait } satisfies Record<keyof t.LeaksQuery, unknown>;
    const headers = { 'content-type': 'application/json' };
    const call = { path, query, body, headers, secret: body.values, extraMs: waitMs(wait) };
    return this.#transport.send({ method: 'POST', ...call, expect: ['matches', 'array'] }, options);
  }
}

/** The projects in which the caller may act. */
export class Projects {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Lists the projects with the caller's role, sorted by id; all of them, or the page that is asked for. */
  async list(options: t.PageOptions = {}): Promise<t.ListProjectsResponse> {
    return collect<t.ListProjectsResponse>(
      options,
      (page) => {
        const query = pageQuery(page);
        return this.#transport.send({ method: 'GET', path: '/v1/projects', query, expect: ['projects', 'array'] }, options);
      },
      (page) => page.projects,
    );
  }
}

/** API keys of the service. */
export class Tokens {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Lists the caller's own API keys, newest first; all of them, or the page that is asked for. */
  async list(options: t.TokenListOptions = {}): Promise<t.ListTokensResponse> {
    return this.#list('/v1/tokens', options);
  }

  /** Lists the API keys with which members can act in a project. Owners only. */
  async listInProject(
    customerId: string,
    projectId: string,
    options: t.TokenListOptions = {},
  ): Promise<t.ListTokensResponse> {
    return this.#list(`${project(customerId, projectId)}/tokens`, options);
  }

  #list(path: string, options: t.TokenListOptions): Promise<t.ListTokensResponse> {
    return collect<t.ListTokensResponse>(
      options,
      (page) => {
        const query = { state: options.state, ...pageQuery(page) };
        query satisfies Record<keyof t.TokenQuery, unknown>;
        return this.#transport.send({ method: 'GET', path, query, expect: ['tokens', 'array'] }, options);
      },
      (page) => page.tokens,
    );
  }

  /** Creates an API key for the caller. Its `api_key` is not shown again; repeating the call creates another API key. */
  async create(name: string, options: t.CreateTokenOptions = {}): Promise<t.CreateTokenResponse> {
    const { projects, expiresAt } = options;
    const body: t.CreateTokenRequest = { name };
    if (projects !== undefined) body.projects = projects;
    if (expiresAt !== undefined) body.expires_at = expiresAt === null ? null : timeText(expiresAt);
    const headers = { 'content-type': 'application/json' };
    return this.#transport.send({ method: 'POST', path: '/v1/tokens', body, headers, expect: ['api_key', 'string'] }, options);
  }

  /** Revokes an API key of the caller, even the one in use. The receipt says how many data planes have confirmed. */
  async revoke(id: string, options: t.RevokeTokenOptions = {}): Promise<t.RevokeTokenResponse> {
    return this.#revoke(`/v1/tokens/${segment('id', id)}`, options);
  }

  /** Bars a member's API key from a project. Owners only. */
  async revokeInProject(
    customerId: string,
    projectId: string,
    id: string,
    options: t.RevokeTokenOptions = {},
  ): Promise<t.RevokeTokenResponse> {
    return this.#revoke(`${project(customerId, projectId)}/tokens/${segment('id', id)}`, options);
  }

  #revoke(path: string, options: t.RevokeTokenOptions): Promise<t.RevokeTokenResponse> {
    const wait = waitText(options.wait);
    const query = { cascade: options.cascade ? ('true' as const) : undefined, wait };
    query satisfies Record<keyof t.RevokeTokenQuery, unknown>;
    const extraMs = waitMs(wait);
    return this.#transport.send({ method: 'DELETE', path, query, extraMs, expect: ['receipt', 'object'] }, options);
  }
}

/** The catalogue of providers whose keys can be registered, and servers of a project's own. */
export class Providers {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Returns the catalogue. */
  async list(options?: Options): Promise<t.ListProvidersResponse> {
    return this.#transport.send({ method: 'GET', path: '/v1/providers', expect: ['providers', 'array'] }, options);
  }

  /** Returns the project's own servers, which are its providers beside those of the catalogue. */
  async listCustom(customerId: string, projectId: string, options?: Options): Promise<t.ListCustomProvidersResponse> {
    const path = `${project(customerId, projectId)}/providers`;
    return this.#transport.send({ method: 'GET', path, expect: ['providers', 'array'] }, options);
  }

  /** Adds a server of your own to a project's providers. It can't be changed. */
  async addCustom(
    customerId: string,
    projectId: string,
    slug: string,
    baseUrl: string,
    options: t.AddCustomProviderOptions = {},
  ): Promise<t.CustomProviderResponse> {
    const path = `${project(customerId, projectId)}/providers`;
    const { displayName, dialect, authStyle, header } = options;
    const body: t.AddCustomProviderRequest = { slug, base_url: baseUrl };
    if (displayName !== undefined) body.display_name = displayName;
    if (dialect !== undefined) body.dialect = dialect;
    if (authStyle !== undefined) body.auth_style = authStyle;
    if (header !== undefined) body.header = header;
    const headers = { 'content-type': 'application/json' };
    return this.#transport.send({ method: 'POST', path, body, headers, expect: ['provider', 'object'] }, options);
  }

  /** Removes a server that a project's owners added. Revoke its keys first, or the call fails. */
  async removeCustom(
    customerId: string,
    projectId: string,
    slug: string,
    options?: Options,
  ): Promise<t.CustomProviderResponse> {
    const path = `${project(customerId, projectId)}/providers/${segment('slug', slug)}`;
    return this.#transport.send({ method: 'DELETE', path, expect: ['provider', 'object'] }, options);
  }
}
