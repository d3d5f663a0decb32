/**
 * The contract's types under their public names. Results come as the service sends them: their fields have the names
 * of the contract, such as `display_suffix`. A field, or a value of a list, that this version does not know is kept.
 */

import type { components, operations } from './gen/aikeys.js';

type Schemas = components['schemas'];

/** A provider's slug: those known to this version, and any other that the catalogue lists. */
export type AIKeyProvider = Schemas['ProviderSlug'];
export type AIKey = Schemas['Key'];
export type AIKeyState = Schemas['KeyState'];
export type KeyFailure = Schemas['KeyFailure'];
export type Verification = Schemas['Verification'];
export type Receipt = Schemas['Receipt'];
export type DisableReceipt = Schemas['DisableReceipt'];
export type RotationReceipt = Schemas['RotationReceipt'];
export type ReceiptPlane = Schemas['ReceiptPlane'];
export type KeyVersion = Schemas['KeyVersion'];
export type Scope = Schemas['Scope'];
export type Role = Schemas['Role'];
export type AuthMethod = Schemas['AuthMethod'];
export type UserKeys = Schemas['UserKeys'];
export type UserKeysByProvider = Schemas['UserKeysByProvider'];
export type OnBadKey = Schemas['OnBadKey'];
export type OnLimited = Schemas['OnLimited'];
export type Operations = Schemas['Operations'];
export type Policy = Schemas['Policy'];
export type Event = Schemas['Event'];
export type Fetch = Schemas['Fetch'];
export type UsageEntry = Schemas['Usage'];
export type Actor = Schemas['Actor'];
export type Member = Schemas['Member'];
export type Project = Schemas['Project'];
/** The metadata of an API key of the service. */
export type Token = Schemas['Token'];
export type Provider = Schemas['Provider'];
export type FieldError = Schemas['FieldError'];

export type RegisterResponse = Schemas['RegisterResponse'];
export type GetResponse = Schemas['GetResponse'];
export type ListResponse = Schemas['ListResponse'];
export type VerifyResponse = Schemas['VerifyResponse'];
export type RevokeResponse = Schemas['RevokeResponse'];
export type UpdateResponse = Schemas['UpdateResponse'];
export type RotateResponse = Schemas['RotateResponse'];
export type VersionsResponse = Schemas['VersionsResponse'];
export type DestroyVersionResponse = Schemas['DestroyVersionResponse'];
export type Restrictions = Schemas['Restrictions'];
export type KeyLimit = Schemas['KeyLimit'];
export type ResolveResponse = Schemas['ResolveResponse'];
export type PolicyResponse = Schemas['PolicyResponse'];
export type ListEventsResponse = Schemas['ListEventsResponse'];
export type ListFetchesResponse = Schemas['ListFetchesResponse'];
export type ListUsageResponse = Schemas['ListUsageResponse'];
export type ListMembersResponse = Schemas['ListMembersResponse'];
export type MemberResponse = Schemas['MemberResponse'];
export type RemoveMemberResponse = Schemas['RemoveMemberResponse'];
export type RestoreMemberResponse = Schemas['RestoreMemberResponse'];
export type MemberImpactResponse = Schemas['MemberImpactResponse'];
export type LeaksResponse = Schemas['LeaksResponse'];
export type ListProjectsResponse = Schemas['ListProjectsResponse'];
export type ListTokensResponse = Schemas['ListTokensResponse'];
/** A new API key. Its `api_key` is a secret, and is not shown again. */
export type CreateTokenResponse = Schemas['CreateTokenResponse'];
export type RevokeTokenResponse = Schemas['RevokeTokenResponse'];
export type ListProvidersResponse = Schemas['ListProvidersResponse'];
export type ListCustomProvidersResponse = Schemas['ListCustomProvidersResponse'];
export type CustomProviderResponse = Schemas['CustomProviderResponse'];
export type WhoAmIResponse = Schemas['WhoAmIResponse'];
/** How people sign in at the issuer. */
export type OIDCClient = Schemas['OIDCClient'];
export type SignInOptionsResponse = Schemas['SignInOptionsResponse'];

/** A problem's stable code. */
export type ErrorCode = Schemas['Problem']['code'];

/** The bodies that the methods send. */
export type RegisterRequest = Schemas['RegisterRequest'];
export type UpdateRequest = Schemas['UpdateRequest'];
export type RotateRequest = Schemas['RotateRequest'];
export type PolicyRequest = Schemas['PolicyRequest'];
export type CreateTokenRequest = Schemas['CreateTokenRequest'];
export type LeaksRequest = Schemas['LeaksRequest'];
export type AddCustomProviderRequest = Schemas['AddCustomProviderRequest'];
export type SetMemberRequest = Schemas['SetMemberRequest'];

/** The query parameters that the methods send. */
export type ListQuery = NonNullable<operations['listKeys']['parameters']['query']>;
export type EventQuery = NonNullable<operations['listEvents']['parameters']['query']>;
export type FetchQuery = NonNullable<operations['listFetches']['parameters']['query']>;
export type UsageQuery = NonNullable<operations['listUsage']['parameters']['query']>;
export type PageQuery = NonNullable<operations['listMembers']['parameters']['query']>;
export type RemoveMemberQuery = NonNullable<operations['removeMember']['parameters']['query']>;
export type LeaksQuery = NonNullable<operations['findLeaks']['parameters']['query']>;
export type TokenQuery = NonNullable<operations['listTokens']['parameters']['query']>;
export type RevokeTokenQuery = NonNullable<operations['revokeToken']['parameters']['query']>;
export type UpdateQuery = NonNullable<operations['updateKey']['parameters']['query']>;
export type GetQuery = NonNullable<operations['getKey']['parameters']['query']>;
export type RevokeQuery = NonNullable<operations['revokeKey']['parameters']['query']>;
export type RotateQuery = NonNullable<operations['rotateKey']['parameters']['query']>;
export type ResolveQuery = operations['resolveKey']['parameters']['query'];

/** The items of all pages, for `for await`. */
export type Items<Item> = AsyncGenerator<Item, void, undefined>;

/** The options that every method takes as its last argument. */
export interface CallOptions {
  /** Aborts the call, also while it waits for a retry; it then rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** How long one attempt may take, instead of the client's. */
  timeoutMs?: number | undefined;
  /** How many times a failed attempt is repeated, instead of the client's. */
  maxRetries?: number | undefined;
  /** More headers for this call. The SDK's own win. */
  headers?: Record<string, string> | undefined;
  /** Called with each response of this call, also an error's: for its headers, its request id and its raw body. */
  onResponse?: ((response: RawResponse) => void) | undefined;
}

/** A raw response. */
export interface RawResponse {
  status: number;
  headers: Headers;
  /** Names the request in the service's log. */
  requestId: string | undefined;
  body: string;
}

/** One attempt of a call. It holds no secret. */
export interface Attempt {
  method: string;
  path: string;
  /** How long it took. */
  ms: number;
  /** Absent if there was no response. */
  status?: number;
  requestId?: string | undefined;
  /** Why there was no response. */
  error?: string;
}

/** The named arguments of `register`, so that a name and a secret can't be swapped by mistake. */
export interface RegisterParams {
  provider: AIKeyProvider;
  /** Tells people which key it is. It is not secret. */
  name: string;
  secret: string;
  /** Registers the caller's own key. Otherwise it is the project's, and the caller must be an owner. */
  userScope?: boolean | undefined;
  /** By default the session's. */
  customerId?: string | undefined;
  /** By default the session's. */
  projectId?: string | undefined;
}

export interface RegisterOptions extends CallOptions {
  /** Makes the call safe to repeat for 24 hours. By default a random UUID, the same for all retries of the call. */
  idempotencyKey?: string | undefined;
  /** Tests the secret at its provider first. If the provider rejects it, nothing is stored, and the call fails with status 422. */
  verify?: boolean | undefined;
  /** Stores the key even if `verify` finds that its provider rejects it. */
  force?: boolean | undefined;
  /** When the key stops serving; it must be in the future. */
  expiresAt?: string | Date | undefined;
  /** Its place among the keys of its scope and provider: the lowest serves; among equals, the newest. The default is 0. */
  order?: number | undefined;
  /** Its share of the callers among keys of its order that have a weight. */
  weight?: number | undefined;
  /** The only users, models and operations that it serves. */
  restrict?: Restrictions | undefined;
  /** How many requests it serves at most. */
  limit?: KeyLimit | undefined;
}

/** The changes to a key. Values that are `undefined` stay as they are. */
export interface KeyChanges {
  /** Its new label. */
  name?: string | undefined;
  /** Whether it is disabled: it serves nobody until this is `false` again. */
  disabled?: boolean | undefined;
  /** When it stops serving; `null` means never. */
  expiresAt?: string | Date | null | undefined;
  /** Its place among the keys of its scope and provider: the lowest serves; among equals, the newest. */
  order?: number | undefined;
  /** Its share of the callers among keys of its order that have a weight; `null` removes it. */
  weight?: number | null | undefined;
  /** The only users, models and operations that it serves. A list replaces the one before; `null` removes one, or all of them. */
  restrict?: Schemas['RestrictionsChange'] | null | undefined;
  /** How many requests it serves at most. A limit replaces the one before; `null` removes one, or all of them. */
  limit?: Schemas['KeyLimitChange'] | null | undefined;
}

export interface ResolveOptions extends CallOptions {
  /** Lists every key that could serve as `candidates`, and why each does or does not. */
  explain?: boolean | undefined;
  /** The user whose requests the key would serve, by default the caller. Owners only. */
  userId?: string | undefined;
  /** The id of a key to treat as being at a limit, which only data planes know. */
  limited?: string | undefined;
}

export interface SetPolicyOptions extends CallOptions {
  /** What happens when a key is at a limit; without it, the default. */
  onLimited?: OnLimited | undefined;
  /** For how many days the removal of a member can be undone, unless the removal says otherwise; with 0 it can't. The default is 30. */
  removalGraceDays?: number | undefined;
}

export interface UpdateOptions extends CallOptions {
  /** The key's `etag` as you know it: the call fails if the key has another by now. */
  ifMatch?: string | undefined;
  /** How long to wait until the receipt of a disabled key is complete, such as `2s`, or in milliseconds. At most 30 seconds. */
  wait?: string | number | undefined;
}

export interface GetOptions extends CallOptions {
  /** How long to wait for the key's receipt to be complete, such as `2s`, or in milliseconds. At most 30 seconds. */
  wait?: string | number | undefined;
}

export interface RevokeOptions extends CallOptions {
  /** How long to wait for the receipt to be complete, such as `2s`, or in milliseconds. At most 30 seconds. */
  wait?: string | number | undefined;
}

export interface ChangeVersionOptions extends CallOptions {
  /** The key's `etag` as you know it: the call fails if the key has another by now. */
  ifMatch?: string | undefined;
  /** How long to wait for the receipt to be complete, such as `2s`, or in milliseconds. At most 30 seconds. */
  wait?: string | number | undefined;
}

export interface RotateOptions extends ChangeVersionOptions {
  /** When the new version serves. By default its secret is tested first, and it serves if the secret is valid. */
  activate?: RotateRequest['activate'];
  /** How long the replaced version is kept, such as `15m`, or in milliseconds, of which whole seconds count. */
  overlap?: string | number | undefined;
  /** When the key stops serving, from the activation on; `null` means never. By default that stays as it is. */
  expiresAt?: string | Date | null | undefined;
  /** Makes the call safe to repeat for 24 hours. By default a random UUID, the same for all retries of the call. */
  idempotencyKey?: string | undefined;
}

export interface PageOptions extends CallOptions {
  /** How many to return at most. */
  pageSize?: number | undefined;
  /** The `next_page_token` of the page before. */
  pageToken?: string | undefined;
}

export interface ListOptions extends PageOptions {
  /** Only keys of this provider. */
  provider?: AIKeyProvider | undefined;
  /** Only keys in this state. */
  state?: ListQuery['state'];
}

export interface EventOptions extends PageOptions {
  /** Only events about this key. */
  keyId?: string | undefined;
  /** Only what this user or operator did. */
  actor?: string | undefined;
  /** Only events of this type. */
  type?: Event['type'] | undefined;
  /** Only events with this outcome. */
  outcome?: EventQuery['outcome'];
  /** Only events about keys of this provider. */
  provider?: AIKeyProvider | undefined;
  /** Only what was done at this time or later. */
  from?: string | Date | undefined;
  /** Only what was done before this time. */
  to?: string | Date | undefined;
}

export interface FetchOptions extends PageOptions {
  /** Only fetches that got this key, or asked for it. */
  keyId?: string | undefined;
  /** Only fetches on behalf of this user. */
  userId?: string | undefined;
  /** Only fetches by this data plane, by its name or its id. */
  dataPlane?: string | undefined;
  /** Only fetches for this provider. */
  provider?: AIKeyProvider | undefined;
  /** Only fetches with this decision. */
  decision?: FetchQuery['decision'];
  /** Only fetches at this time or later. */
  from?: string | Date | undefined;
  /** Only fetches before this time. */
  to?: string | Date | undefined;
}

export interface UsageOptions extends PageOptions {
  /** Only the usage of this key. */
  keyId?: string | undefined;
  /** Only what was served to this user. */
  userId?: string | undefined;
  /** Only the usage of keys of this provider. */
  provider?: AIKeyProvider | undefined;
  /** Only usage from this time on, including its whole hour. */
  from?: string | Date | undefined;
  /** Only usage before this time, including its whole hour. */
  to?: string | Date | undefined;
}

export interface RemoveMemberOptions extends RevokeOptions {
  /** For how many days the removal can be undone, in place of the policy's days, 30 by default. */
  graceDays?: number | undefined;
}

export interface TokenListOptions extends PageOptions {
  /** `active` leaves out API keys that are revoked or have expired. */
  state?: TokenQuery['state'];
}

export interface CreateTokenOptions extends CallOptions {
  /** The only projects in which it can act, by default all of the caller's. */
  projects?: string[] | undefined;
  /** When it expires, instead of after 90 days; `null` means never. */
  expiresAt?: string | Date | null | undefined;
}

export interface RevokeLeaksOptions extends CallOptions {
  /** Where the values were found, for the audit trail. */
  source?: string | undefined;
  /** How long to wait for the receipts: `2s`, or milliseconds; at most 30 seconds. */
  wait?: string | number | undefined;
}

export interface AddCustomProviderOptions extends CallOptions {
  /** Its name for people, instead of the slug. */
  displayName?: string | undefined;
  /** Whose API it speaks, if it is not OpenAI's. */
  dialect?: AddCustomProviderRequest['dialect'];
  /** How it takes its key, if it is not a bearer token. */
  authStyle?: AddCustomProviderRequest['auth_style'];
  /** The header of the `authStyle` `header`. */
  header?: string | undefined;
}

export interface RevokeTokenOptions extends RevokeOptions {
  /** Whether to revoke the API keys that were created with it, too. */
  cascade?: boolean | undefined;
}
