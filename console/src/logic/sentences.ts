// What events, failures and receipts say, as sentences.
import type { DisableReceipt, Event, Key, Receipt, RotationReceipt } from '../api/client.ts';

/** A key's name and the end of its secret. */
export const titleOf = (key: Key) => (key.display_suffix ? `${key.name} …${key.display_suffix}` : key.name);

const reasons: Record<string, string> = {
  restricted: 'the provider limits what it may do', quota_exhausted: 'its account has no balance left', leaked: 'the provider has seen it in public',
  no_connection: 'there was no connection', timeout: 'it took too long', rate_limited: 'the provider limits requests now',
  blocked: 'the provider refuses this network or region', unknown_answer: 'the answer was not understood',
  clock: 'the clock of this service is not the provider’s',
  unsupported: 'there is no test for this provider', busy: 'too many tests are in progress', off: 'this service makes no tests',
  no_data_plane: 'no data plane that makes tests took it', any_key: 'the server accepts a made-up key too',
  external_id: 'the role can be assumed without the external ID',
};

export interface Health { tone: 'ok' | 'quiet' | 'warn' | 'bad'; text: string; remedy?: string }

/** How a key is doing, from its tests and what data planes have reported. */
export function healthOf(key: Key, providerName: string): Health {
  const failed = key.last_failure;
  const failing = failed && !(key.last_used_at && Date.parse(key.last_used_at) > Date.parse(failed.at));
  const tested = key.verification;
  if (key.not_serving_reason === 'rejected' || tested?.verdict === 'rejected' && !key.last_used_at) {
    return { tone: 'bad', text: tested?.reason === 'leaked' ? 'leaked: rejected by its provider' : `rejected by ${providerName}`, remedy: `Make another key at ${providerName} and replace this one.` };
  }
  if (failing) {
    const why = failed.reason === 'leaked' ? 'it was seen in public' : failed.reason === 'quota_exhausted' ? 'no balance left' : failed.reason === 'forbidden' ? 'forbidden' : 'refused';
    return { tone: 'bad', text: `${why} (${failed.status}) by ${providerName}`, remedy: failed.reason === 'quota_exhausted' ? `Add balance at ${providerName}.` : `Check the key at ${providerName}, or replace it.` };
  }
  if (key.stale_since) return { tone: 'warn', text: 'not used for 90 days', remedy: 'Revoke it if nothing needs it.' };
  if (tested?.verdict === 'unreachable') return { tone: 'quiet', text: `not tested: ${reasons[tested.reason ?? ''] ?? 'unknown'}` };
  if (tested?.verdict === 'valid' && tested.reason === 'quota_exhausted') return { tone: 'warn', text: 'valid, but its account has no balance left' };
  if (key.last_used_at) return { tone: 'ok', text: 'healthy' };
  if (tested?.verdict === 'valid') return { tone: 'ok', text: tested.reason === 'restricted' ? 'valid, limited by its provider' : 'valid, not used yet' };
  return { tone: 'quiet', text: 'never used' };
}

/** What a test found. */
export function verdictSentence(verification: NonNullable<Key['verification']>, providerName: string): string {
  const because = verification.reason ? ` (${reasons[verification.reason] ?? verification.reason})` : '';
  switch (verification.verdict) {
    case 'valid': return `${providerName} takes the key${because}.`;
    case 'rejected': return `${providerName} rejects the key${because}.`;
    default: return `Not tested${because}: the key’s state is unknown.`;
  }
}

const acts: Record<string, [done: string, tried: string]> = {
  'key.registered': ['registered', 'register'], 'key.revoked': ['revoked', 'revoke'], 'key.updated': ['changed', 'change'],
  'key.disabled': ['disabled', 'disable'], 'key.enabled': ['enabled', 'enable'], 'key.verified': ['tested', 'test'],
  'key.rotated': ['replaced the secret of', 'replace the secret of'], 'key.version_added': ['stored another secret for', 'store another secret for'],
  'key.rotation_rolled_back': ['restored the previous secret of', 'restore the previous secret of'], 'key.version_destroyed': ['destroyed a secret of', 'destroy a secret of'],
  'policy.set': ['changed', 'change'],
  'member.set': ['set the role of', 'set the role of'], 'member.removed': ['removed', 'remove'],
  'token.created': ['created', 'create'], 'token.revoked': ['revoked', 'revoke'],
  'provider.created': ['added', 'add'], 'provider.deleted': ['removed', 'remove'],
};

/** Who did an event. */
export function actorOf(event: Event): string {
  const { user_id, method } = event.actor;
  if (method === 'admin') return user_id ? `operator ${user_id}` : 'an operator';
  if (method === 'data_plane') return user_id ? `data plane ${user_id}` : 'a data plane';
  if (method === 'service') return 'the service';
  return user_id;
}

/** An event as a sentence without its actor: "revoked openai-prod …9f3c". */
export function deed(event: Event, keys: ReadonlyMap<string, Key>): string {
  const known = event.key_id ? keys.get(event.key_id) : undefined;
  const provider = event.provider ? ` (${event.provider})` : '';
  const key = known ? titleOf(known) : event.key_id ? `key ${event.key_id.slice(0, 9)}…${event.key_id.slice(-4)}${provider}` : `a key${provider}`;
  const denied = event.outcome === 'denied';
  switch (event.type) {
    case 'key.failing': return `reported that the provider refuses ${key}`;
    case 'key.exposed': return `masked ${key} in an answer of its provider`;
    case 'key.expiring': return `noted that ${key} will expire soon`;
    case 'key.expired': return `noted that ${key} has expired`;
  }
  const act = acts[event.type];
  const what = event.type.startsWith('key.') ? key
    : event.type === 'policy.set' ? 'the policy'
      : event.type.startsWith('member.') ? event.member_id ?? 'a member'
        : event.type.startsWith('token.') ? `an API key of ${event.member_id ?? 'a user'}`
          : event.type.startsWith('provider.') ? `the server ${event.provider ?? ''}` : '';
  const role = event.type === 'member.set' && event.role ? ` to ${event.role}` : '';
  if (!act) return `${denied ? 'tried ' : ''}${event.type} ${what}`.trim();
  const times = event.repeated && event.repeated > 1 ? `, ${event.repeated} times` : '';
  return denied ? `tried to ${act[1]} ${what}${role}${times}` : `${act[0]} ${what}${role}`;
}

/** What changed in an event, "policy: allow → forbid". */
export function changesOf(event: Event): string[] {
  const before = (event.before ?? {}) as Record<string, unknown>;
  const after = (event.after ?? {}) as Record<string, unknown>;
  const show = (v: unknown) => (v === undefined ? 'none' : typeof v === 'object' ? JSON.stringify(v) : String(v));
  return [...new Set([...Object.keys(before), ...Object.keys(after)])]
    .filter((name) => show(before[name]) !== show(after[name]))
    .map((name) => `${name.replaceAll('_', ' ')}: ${event.before ? `${show(before[name])} → ` : ''}${show(after[name])}`);
}

/** Both kinds of receipt have the same members but for who and when. */
export type AnyReceipt = Receipt | DisableReceipt;
export const stoppedAt = (r: AnyReceipt) => ('revoked_at' in r ? r.revoked_at : r.disabled_at);
export const stoppedBy = (r: AnyReceipt) => ('revoked_by' in r ? r.revoked_by : r.disabled_by);

const planes = (n: number) => `${n} data plane${n === 1 ? '' : 's'}`;

/** The data planes that have confirmed, the quickest first, each with what else it said. */
export const confirmedPlanes = (r: AnyReceipt) => (r.planes ?? [])
  .filter((p) => p.state === 'acknowledged')
  .toSorted((a, b) => (a.ms ?? 0) - (b.ms ?? 0))
  .map((p) => ({ ...p, confirmation: r.acknowledgements?.find((a) => a.data_plane === p.name) }));

/** The names of up to three data planes in a state, and how many more there are. */
export function namesOf(r: Pick<AnyReceipt, 'planes'>, state: string): string {
  const names = (r.planes ?? []).filter((p) => p.state === state).map((p) => p.name);
  return names.length > 3 ? `${names.slice(0, 3).join(', ')} and ${names.length - 3} more` : names.join(', ');
}

/** How far a rotation is, and what to do at the provider. `canReturn` says whether the version before can still be brought back. */
export function rotationSentence(r: RotationReceipt, provider: string, canReturn: boolean): string {
  if (r.old_version_safe_to_delete) return `No data plane uses version ${r.replaced_version} any more. ${canReturn ? `Once you need no way back to it, destroy it here and delete it at ${provider}.` : `Delete it at ${provider}.`}`;
  const waiting = namesOf(r, 'waiting');
  return `${r.acknowledged} of ${planes(r.data_planes)} ${r.acknowledged === 1 ? 'has' : 'have'} confirmed version ${r.version}${waiting && `, and ${waiting} not yet`}. Keep version ${r.replaced_version} at ${provider} until all have.`;
}

/** What a receipt proves, in one or two sentences. */
export function receiptSentence(r: AnyReceipt, now: number): string {
  const missing = r.data_planes - r.acknowledged;
  if (r.data_planes === 0) return 'No data plane held keys at that time, so none had to confirm.';
  if (r.state === 'complete') {
    if (missing > 0) return `${r.acknowledged} of ${planes(r.data_planes)} confirmed. The lease of the other${missing > 1 ? 's' : ''} has ended, so ${missing > 1 ? 'they have' : 'it has'} dropped the key too.`;
    return r.data_planes === 1 ? 'The data plane has confirmed that it dropped the key.' : `All ${planes(r.data_planes)} have confirmed that they dropped the key.`;
  }
  const left = r.complete_by ? Math.max(0, Date.parse(r.complete_by) - now) : 0;
  const waits = missing === 1 ? 'The last one stops by itself' : `The other ${missing} stop by themselves`;
  return `${r.acknowledged} of ${planes(r.data_planes)} ${r.data_planes === 1 || r.acknowledged === 1 ? 'has' : 'have'} confirmed. ${waits} in ${left < 60_000 ? `${(left / 1000).toFixed(1)} s` : `${Math.ceil(left / 60_000)} min`} at the latest.`;
}
