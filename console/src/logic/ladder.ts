// Which key serves, as the service decides it, from what the API shows of keys and the policy.
import type { Key, Policy } from '../api/client.ts';

export type UserKeys = Policy['user_keys'];

/** What the policy says about members' own keys for a provider. */
export function ruleFor(policy: Policy | undefined, provider: string): UserKeys {
  return policy?.user_keys_by_provider[provider] ?? policy?.user_keys ?? 'allow';
}

export interface Rung {
  key: Key;
  verdict: 'serves' | 'shares' | 'standby' | 'out';
  /** Why, as a sentence without a full stop. */
  why: string;
}

/** The lowest order first, and of the same order the newest. */
const inOrder = (a: Key, b: Key) => (a.order ?? 0) - (b.order ?? 0) || b.created_at.localeCompare(a.created_at) || b.id.localeCompare(a.id);

/** How long a key that its provider refuses is passed over, where the policy says next_key. */
const badFor = 5 * 60_000;

function isBad(key: Key, now: number): boolean {
  const failed = key.last_failure && Date.parse(key.last_failure.at);
  if (!failed || now - failed >= badFor) return false;
  return !key.last_used_at || Date.parse(key.last_used_at) <= failed;
}

/** Why a key serves nobody whatever the policy says; empty if it may serve. */
export function stoppedBecause(key: Key, now: number): string {
  if (key.state === 'revoked') return 'revoked';
  if (key.disabled) return 'disabled';
  if (key.expires_at && Date.parse(key.expires_at) <= now) return 'expired';
  return '';
}

/**
 * All keys of a provider in the order in which they come: the caller's own before the project's, then by order and age. The first
 * that nothing rules out serves; if all that are left have just been refused, the first of these. If it has a weight, it shares
 * the callers with the others of its order that have one; which of them serves whom is for the service to say. Given a user, keys that
 * are restricted to other users serve nothing.
 */
export function ladder(keys: readonly Key[], policy: Policy | undefined, provider: string, now: number, user?: string): Rung[] {
  const rule = ruleFor(policy, provider);
  const ours = keys.filter((k) => k.provider === provider && k.state !== 'revoked');
  const ordered = [...ours.filter((k) => k.user_scope).sort(inOrder), ...ours.filter((k) => !k.user_scope).sort(inOrder)];
  const rungs = ordered.map((key): Rung => {
    const stopped = stoppedBecause(key, now);
    if (stopped) return { key, verdict: 'out', why: stopped };
    if (user && key.restrict?.users && !key.restrict.users.includes(user)) return { key, verdict: 'out', why: 'restricted to other users' };
    if (key.user_scope && rule === 'forbid') return { key, verdict: 'out', why: 'the policy forbids members’ own keys' };
    if (!key.user_scope && rule === 'require') return { key, verdict: 'out', why: 'the policy requires a key of your own' };
    return { key, verdict: 'standby', why: '' };
  });
  const able = rungs.filter((r) => r.verdict === 'standby');
  const skipped = policy?.on_bad_key === 'next_key' ? able.filter((r) => isBad(r.key, now)) : [];
  const serving = able.find((r) => !skipped.includes(r)) ?? able[0];
  const sharers = serving?.key.weight
    ? able.filter((r) => r.key.weight && r.key.user_scope === serving.key.user_scope && (r.key.order ?? 0) === (serving.key.order ?? 0) && !skipped.includes(r)) : [];
  for (const rung of able) {
    if (sharers.length > 1 && sharers.includes(rung)) {
      rung.verdict = 'shares';
    } else if (rung === serving) {
      rung.verdict = 'serves';
    } else if (skipped.includes(rung)) {
      rung.why = 'refused by the provider a moment ago, so the next key is used';
    } else {
      rung.why = serving && serving.key.user_scope && !rung.key.user_scope ? 'your own key goes first' : 'another key goes first';
    }
  }
  return rungs;
}

/** The key that serves the caller's requests to a provider, or one of those that share them. */
export function servingKey(keys: readonly Key[], policy: Policy | undefined, provider: string, now: number): Key | undefined {
  return ladder(keys, policy, provider, now).find((r) => r.verdict === 'serves' || r.verdict === 'shares')?.key;
}

export type RoleOf = 'serves' | 'serves-you' | 'standby' | 'out';

/** What a key does in its own scope: for the project, or for its member. */
export function roleOf(key: Key, keys: readonly Key[], policy: Policy | undefined, now: number): { role: RoleOf; label: string } {
  if (stoppedBecause(key, now)) return { role: 'out', label: stoppedBecause(key, now) };
  const rule = ruleFor(policy, key.provider);
  // A key for certain users takes nothing from the key that serves all others.
  const scope = ladder(keys.filter((k) => k.user_scope === key.user_scope && (k.id === key.id || !k.restrict?.users)), policy, key.provider, now);
  const rung = scope.find((r) => r.key.id === key.id);
  if (rung?.verdict === 'shares') {
    const all = scope.filter((r) => r.verdict === 'shares').reduce((sum, r) => sum + (r.key.weight ?? 0), 0);
    return { role: key.user_scope ? 'serves-you' : 'serves', label: `serves ${Math.round(100 * (key.weight ?? 0) / all)} % of ${key.user_scope ? 'your requests' : 'the callers'}` };
  }
  if (rung?.verdict === 'serves') {
    const users = key.restrict?.users;
    if (users) return { role: 'serves', label: `serves ${users.length === 1 ? users[0] : `${users.length} users`}` };
    return key.user_scope ? { role: 'serves-you', label: 'serves you' } : { role: 'serves', label: 'serves the project' };
  }
  if (rung?.verdict === 'out') {
    return { role: 'out', label: rule === 'forbid' ? 'own keys are forbidden' : 'own keys are required' };
  }
  return { role: 'standby', label: 'standby' };
}

/** What happens to whom when a key stops, before it is stopped. */
export function impactOf(key: Key, keys: readonly Key[], policy: Policy | undefined, now: number): { next?: Key; wasServing: boolean; sentence: string } {
  const who = key.user_scope ? 'your requests' : 'the project’s requests';
  const { role } = roleOf(key, keys, policy, now);
  const wasServing = role === 'serves' || role === 'serves-you';
  if (!wasServing) return { wasServing, sentence: 'It serves nobody now, so no request changes.' };
  const rest = keys.filter((k) => k.id !== key.id && (key.user_scope || !k.user_scope));
  const next = servingKey(rest, policy, key.provider, now);
  return next
    ? { next, wasServing, sentence: `From then on, ${who} are served by ${next.name}${next.display_suffix ? ` (…${next.display_suffix})` : ''}${key.user_scope && !next.user_scope ? ', the project’s key' : ''}.` }
    : { wasServing, sentence: `Nobody would serve ${who} to this provider: they get 403 until another key is added.` };
}
