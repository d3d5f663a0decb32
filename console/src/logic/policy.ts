// What a change of the policy does to whom, from what was served lately.
import type { Key, Policy, Usage } from '../api/client.ts';
import { ruleFor, servingKey } from './ladder.ts';
import { titleOf } from './sentences.ts';

export interface Effect { provider: string; tone: 'ok' | 'warn' | 'bad'; text: string }

/** The effects by provider. `keys` are the project's and the reader's; keys of others show in the usage alone. */
export function effectOf(before: Policy, after: Policy, keys: readonly Key[], usage: readonly Usage[], nameOf: (slug: string) => string, now: number): Effect[] {
  const shared = keys.filter((k) => !k.user_scope);
  const isShared = new Set(shared.map((k) => k.id));
  const providers = [...new Set([...keys.filter((k) => k.state !== 'revoked').map((k) => k.provider), ...usage.map((u) => u.provider), ...Object.keys(after.user_keys_by_provider), ...Object.keys(before.user_keys_by_provider)])].sort();
  const effects: Effect[] = [];
  for (const provider of providers) {
    const [was, is] = [ruleFor(before, provider), ruleFor(after, provider)];
    if (was === is) continue;
    const used = usage.filter((u) => u.provider === provider && u.user_id);
    const users = (own: boolean) => [...new Set(used.filter((u) => isShared.has(u.key_id) !== own).map((u) => u.user_id ?? ''))].sort();
    const project = servingKey(shared, { ...after, user_keys: 'allow', user_keys_by_provider: {} }, provider, now);
    const add = (tone: Effect['tone'], who: string[], text: string) => effects.push({ provider: nameOf(provider), tone, text: who.length > 0 ? `${who.join(', ')}: ${text}` : text });
    const owners = users(true);
    if (is === 'forbid') {
      if (owners.length === 0) add('ok', [], 'nobody was served by a key of their own lately.');
      else if (project) add('warn', owners, `own keys stop serving; ${titleOf(project)} serves instead.`);
      else add('bad', owners, 'own keys stop serving, and the project has no key: their requests are refused.');
    } else if (is === 'require') {
      const left = users(false).filter((u) => !owners.includes(u));
      add(left.length > 0 ? 'bad' : 'ok', left, left.length > 0 ? 'the project’s key stops serving; requests are refused until each adds a key of their own.' : 'nobody was served by the project’s key alone lately.');
    } else {
      add('ok', [], was === 'forbid' ? 'own keys serve again, before the project’s.' : project ? `members without a key of their own are served by ${titleOf(project)}.` : 'members without a key of their own would be served by the project’s key, which it does not have yet.');
    }
  }
  if (before.on_bad_key !== after.on_bad_key) {
    effects.push({ provider: '', tone: 'ok', text: after.on_bad_key === 'next_key' ? 'When a provider refuses a key, the next key is tried for five minutes.' : 'When a provider refuses a key, the caller gets the provider’s error.' });
  }
  if ((before.on_limited ?? 'fail') !== (after.on_limited ?? 'fail')) {
    effects.push({ provider: '', tone: 'ok', text: after.on_limited === 'next_key' ? 'While a key is at a limit, the next key serves.' : 'When a key is at a limit, the caller gets the 429.' });
  }
  if ((before.operations ?? 'inference') !== (after.operations ?? 'inference')) {
    effects.push(after.operations === 'all'
      ? { provider: '', tone: 'bad', text: 'Requests that administer a provider’s account are served too. Credentials created this way outlive a revocation here.' }
      : { provider: '', tone: 'warn', text: 'Requests that administer a provider’s account are refused.' });
  }
  const [was, is] = [graceOf(before), graceOf(after)];
  if (was !== is) {
    effects.push({ provider: '', tone: is < was ? 'warn' : 'ok', text: is === 0 ? 'The removal of a member can’t be undone.' : `The removal of a member can be undone for ${is} ${is === 1 ? 'day' : 'days'}.` });
  }
  return effects;
}

/** For how many days the removal of a member can be undone. */
export const graceOf = (policy: Policy): number => policy.removal_grace_days ?? 30;
