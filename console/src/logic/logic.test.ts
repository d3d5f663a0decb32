import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Event, Key, Policy, Provider, Receipt } from '../api/client.ts';
import { ServerClock } from './clock.ts';
import { curl, quote, tare } from './commands.ts';
import { checksum, refuseCredential } from './credential.ts';
import { cell, toCSV } from './csv.ts';
import { endingOf, looksSecret, ownerOf, ownersOf, refuseSecret } from './detect.ts';
import { effectOf } from './policy.ts';
import { impactOf, ladder, roleOf, servingKey } from './ladder.ts';
import { changesOf, confirmedPlanes, deed, healthOf, namesOf, receiptSentence, rotationSentence } from './sentences.ts';
import { relative, span } from './time.ts';

const now = Date.parse('2026-11-29T12:00:00Z');
const ago = (s: number) => new Date(now - s * 1000).toISOString();
let made = 0;
function key(changes: Partial<Key> = {}): Key {
  made++;
  return {
    id: `byok_${String(made).padStart(26, '0')}`, customer_id: 'acme', project_id: 'chat', provider: 'openai', name: `key-${made}`, display_suffix: '0001',
    user_scope: false, created_at: ago(1000 - made), created_by: 'alice', state: 'active', ...changes,
  };
}
const policy = (changes: Partial<Policy> = {}): Policy => ({ user_keys: 'allow', user_keys_by_provider: {}, on_bad_key: 'fail', ...changes });
const provider = (slug: string, prefixes: string[]): Provider => ({
  slug, display_name: slug, base_url: '', auth_style: 'bearer', secret_format: 'token', prefixes, required_fields: [], key_page_url: '',
});

test('the newest key of one’s own serves before the project’s newest', () => {
  const [old, fresh, own] = [key(), key(), key({ user_scope: true, created_at: ago(9999) })];
  assert.equal(servingKey([old, fresh], policy(), 'openai', now), fresh);
  assert.equal(servingKey([old, fresh, own], policy(), 'openai', now), own);
  assert.deepEqual(ladder([old, fresh, own], policy(), 'openai', now).map((r) => [r.key.id, r.verdict]), [[own.id, 'serves'], [fresh.id, 'standby'], [old.id, 'standby']]);
});

test('the lowest order goes first, and weights share the callers', () => {
  const [first, reserve] = [key(), key({ order: 1 })];
  assert.equal(servingKey([first, reserve], policy(), 'openai', now), first);
  assert.equal(roleOf(reserve, [first, reserve], policy(), now).label, 'standby');
  const [three, one] = [key({ weight: 3 }), key({ weight: 1 })];
  assert.deepEqual(ladder([three, one, reserve], policy(), 'openai', now).map((r) => r.verdict), ['shares', 'shares', 'standby']);
  assert.equal(roleOf(three, [three, one], policy(), now).label, 'serves 75 % of the callers');
  assert.equal(roleOf(three, [three, first], policy(), now).label, 'serves the project', 'a weight without another one shares with none');
});

test('a key for certain users serves these, and nobody else', () => {
  const all = key();
  const bobs = key({ restrict: { users: ['bob'] } });
  const serves = (user: string) => ladder([all, bobs], policy(), 'openai', now, user).filter((r) => r.verdict === 'serves').map((r) => r.key.id);
  assert.deepEqual([serves('bob'), serves('alice')], [[bobs.id], [all.id]]);
  assert.deepEqual([all, bobs].map((k) => roleOf(k, [all, bobs], policy(), now).label), ['serves the project', 'serves bob']);
});

test('a change of the policy says whom it moves, and whom it leaves without a key', () => {
  const project = key();
  const use = (user_id: string, key_id: string, provider = 'openai') => ({ day: '2026-11-29', key_id, provider, user_id, requests: 4, refusals: 0, last_used_at: ago(9) });
  const usage = [use('bob', 'byok_own'), use('carol', project.id), use('carol', project.id)];
  const effect = (before: Policy, after: Policy, keys = [project]) => effectOf(before, after, keys, usage, (slug) => slug, now).map((e) => `${e.tone}: ${e.text}`);
  assert.deepEqual(effect(policy(), policy()), []);
  assert.deepEqual(effect(policy(), policy({ user_keys: 'forbid' })), [`warn: bob: own keys stop serving; ${project.name} …0001 serves instead.`]);
  const gone = { ...project, state: 'revoked' };
  assert.deepEqual(effect(policy(), policy({ user_keys: 'forbid' }), [gone]), ['bad: bob: own keys stop serving, and the project has no key: their requests are refused.']);
  assert.deepEqual(effect(policy(), policy({ user_keys: 'require' })), ['bad: carol: the project’s key stops serving; requests are refused until each adds a key of their own.']);
  assert.deepEqual(effect(policy({ user_keys: 'forbid' }), policy({ user_keys: 'forbid', user_keys_by_provider: { openai: 'forbid' } })), []);
  assert.match(effect(policy(), policy({ on_bad_key: 'next_key' }))[0]!, /^ok: .*next key/);
  assert.match(effect(policy(), policy({ on_limited: 'next_key' }))[0]!, /^ok: .*at a limit, the next key/);
  assert.deepEqual(effect(policy(), policy({ on_limited: 'fail' })), []);
  assert.deepEqual(effect(policy(), policy({ removal_grace_days: 1 })), ['warn: The removal of a member can be undone for 1 day.']);
  assert.deepEqual(effect(policy(), policy({ removal_grace_days: 0 })), ['warn: The removal of a member can’t be undone.']);
  assert.deepEqual(effect(policy(), policy({ removal_grace_days: 30 })), []);
});

test('the policy decides between own keys and the project’s, by provider too', () => {
  const [project, own] = [key(), key({ user_scope: true })];
  assert.equal(servingKey([project, own], policy({ user_keys: 'forbid' }), 'openai', now), project);
  assert.equal(servingKey([project], policy({ user_keys: 'require' }), 'openai', now), undefined);
  assert.equal(servingKey([project], policy({ user_keys: 'require', user_keys_by_provider: { openai: 'allow' } }), 'openai', now), project);
});

test('a key that is disabled, expired or revoked serves nobody', () => {
  for (const stopped of [{ disabled: true }, { expires_at: ago(1) }, { state: 'revoked' }]) {
    assert.equal(servingKey([key(stopped)], policy(), 'openai', now), undefined, JSON.stringify(stopped));
  }
  assert.ok(servingKey([key({ expires_at: ago(-5) })], policy(), 'openai', now));
});

test('a key that was refused a moment ago is passed over only where the policy says so', () => {
  const old = key();
  const failing = key({ last_failure: { at: ago(60), status: 401 }, last_used_at: ago(120) });
  assert.equal(servingKey([old, failing], policy(), 'openai', now), failing);
  assert.equal(servingKey([old, failing], policy({ on_bad_key: 'next_key' }), 'openai', now), old);
  assert.equal(servingKey([failing], policy({ on_bad_key: 'next_key' }), 'openai', now), failing, 'if there is no other');
  const recovered = key({ last_failure: { at: ago(60), status: 401 }, last_used_at: ago(10) });
  assert.equal(servingKey([old, recovered], policy({ on_bad_key: 'next_key' }), 'openai', now), recovered);
});

test('a revocation says who serves next, or that nobody does', () => {
  const [old, fresh] = [key(), key()];
  assert.match(impactOf(fresh, [old, fresh], policy(), now).sentence, new RegExp(`served by ${old.name}`));
  assert.match(impactOf(old, [old, fresh], policy(), now).sentence, /serves nobody/);
  assert.match(impactOf(fresh, [fresh], policy(), now).sentence, /^Nobody would serve/);
  const own = key({ user_scope: true });
  assert.match(impactOf(fresh, [fresh, own], policy(), now).sentence, /^Nobody would serve the project/, 'an own key of the reader serves nobody else');
  assert.match(impactOf(own, [fresh, own], policy(), now).sentence, /the project’s key/);
  assert.equal(roleOf(fresh, [old, fresh, own], policy(), now).label, 'serves the project');
});

test('the longest prefix tells the provider, and a shared one tells nothing', () => {
  const all = [provider('openai', ['sk-', 'sk-proj-']), provider('anthropic', ['sk-ant-']), provider('deepseek', ['sk-'])];
  assert.equal(ownerOf('sk-ant-x', all)?.slug, 'anthropic');
  assert.equal(ownerOf('sk-proj-x', all)?.slug, 'openai');
  assert.equal(ownerOf('sk-x', all), undefined);
  assert.deepEqual(ownersOf('nothing', all), []);
  assert.ok(looksSecret('sk-ant-abcdefgh', all));
  assert.ok(looksSecret('AbCdEfGhIjKlMnOpQrStUvWxYz012345', all));
  for (const name of ['openai-prod', 'openai-production-eu-west-1', 'Team key 2027']) assert.ok(!looksSecret(name, all), name);
  assert.match(refuseSecret('sk-...abcd'), /masked/);
  assert.match(refuseSecret('ak_x'), /AgentRouter/);
  assert.equal(refuseSecret('sk-proj-abcdefghijklmnop'), '');
  assert.equal(endingOf('0123456789abcdef'), 'cdef');
  assert.equal(endingOf('0123456'), '6');
});

test('an API key is checked before it is sent, a provider’s key is never sent', () => {
  const body = `ak_01ARZ3NDEKTSV4RRFFQ69G5FAV_${'0'.repeat(43)}`;
  assert.equal(checksum(body), '4EdhZZ'); // the example of impl/auth
  assert.equal(refuseCredential(`${body}_4EdhZZ`), '');
  assert.match(refuseCredential(`${body}_4EdhZz`), /checksum/);
  assert.match(refuseCredential(`${body}_4EdhZ`), /checksum/);
  assert.match(refuseCredential('sk-proj-abcdefgh'), /Nothing was sent/);
  assert.equal(refuseCredential('eyJhbGciOi.eyJzdWIi.c2ln'), '');
  assert.match(refuseCredential('dp_x'), /data plane/);
});

test('commands quote what a shell would read', () => {
  assert.equal(quote("it's"), `'it'\\''s'`);
  assert.equal(quote('openai-prod'), 'openai-prod');
  assert.equal(quote('$(reboot)'), "'$(reboot)'");
  assert.match(curl('http://h', 'GET', '/v1/x?a=b&c').text, /'http:\/\/h\/v1\/x\?a=b&c'/);
  assert.equal(tare(['byok', 'list'], { provider: 'openai', state: undefined }).text, 'tare api byok list --provider openai');
});

test('a cell runs no formula', () => {
  assert.equal(cell('=1+1'), `"'=1+1"`);
  assert.equal(cell('a"b'), '"a""b"');
  assert.equal(cell(undefined), '""');
  const event = { id: 'evt_1', type: 'key.revoked', outcome: 'denied', at: ago(1), actor: { user_id: '@bob', method: 'api_key' }, source_ip: '', request_id: '' } as Event;
  assert.equal(toCSV([event]).split('\r\n').length, 3);
});

test('events read as sentences', () => {
  const k = key({ name: 'openai-prod' });
  const event = (changes: object) => ({ id: 'e', type: 'key.revoked', outcome: 'allowed', at: ago(1), actor: { user_id: 'bob', method: 'api_key' }, source_ip: '', request_id: '', key_id: k.id, ...changes }) as Event;
  const known = new Map([[k.id, k]]);
  assert.equal(deed(event({}), known), 'revoked openai-prod …0001');
  assert.equal(deed(event({ outcome: 'denied', repeated: 3 }), known), 'tried to revoke openai-prod …0001, 3 times');
  assert.equal(deed(event({ type: 'some.thing', key_id: undefined }), known), 'some.thing', 'a type that a later service adds');
  assert.deepEqual(changesOf(event({ before: { user_keys: 'allow', on_bad_key: 'fail' }, after: { user_keys: 'forbid', on_bad_key: 'fail' } })), ['user keys: allow → forbid']);
});

test('health says the newest fact', () => {
  assert.equal(healthOf(key(), 'P').text, 'never used');
  assert.equal(healthOf(key({ last_used_at: ago(5) }), 'P').tone, 'ok');
  assert.equal(healthOf(key({ last_used_at: ago(50), last_failure: { at: ago(5), status: 401 } }), 'P').tone, 'bad');
  assert.equal(healthOf(key({ last_used_at: ago(5), last_failure: { at: ago(50), status: 401 } }), 'P').tone, 'ok');
  assert.equal(healthOf(key({ not_serving_reason: 'rejected', verification: { verdict: 'rejected', checked_at: ago(1) } }), 'P').tone, 'bad');
});

test('a receipt says who is missing, and until when', () => {
  const r = (changes: Partial<Receipt>): Receipt => ({ state: 'pending', revoked_at: ago(0.8), revoked_by: 'alice', data_planes: 3, acknowledged: 2, ...changes });
  assert.match(receiptSentence(r({ complete_by: ago(-0.2) }), now), /^2 of 3 data planes have confirmed. The last one stops by itself in 0.2 s/);
  assert.match(receiptSentence(r({ state: 'complete' }), now), /lease of the other has ended/);
  assert.match(receiptSentence(r({ state: 'complete', acknowledged: 3 }), now), /^All 3 data planes/);
  const planes = ['a', 'b', 'c', 'd'].map((name) => ({ name, state: 'waiting' })).concat([{ name: 'e', state: 'acknowledged', ms: 9 }, { name: 'f', state: 'acknowledged', ms: 2 }] as never);
  assert.equal(namesOf(r({ planes } as never), 'waiting'), 'a, b, c and 1 more');
  const rotated = { version: 2, replaced_version: 1, data_planes: 3, acknowledged: 2, planes: [{ name: 'eu-1', state: 'waiting' }] };
  assert.equal(rotationSentence(rotated as never, 'OpenAI', true), '2 of 3 data planes have confirmed version 2, and eu-1 not yet. Keep version 1 at OpenAI until all have.');
  assert.match(rotationSentence({ ...rotated, old_version_safe_to_delete: true } as never, 'OpenAI', true), /any more. Once you need no way back/);
  assert.match(rotationSentence({ ...rotated, old_version_safe_to_delete: true } as never, 'OpenAI', false), /any more. Delete it at OpenAI.$/);
  assert.deepEqual(confirmedPlanes(r({ planes, acknowledgements: [{ data_plane: 'e', acknowledged: 2 }] } as never)).map((p) => [p.name, p.ms, p.confirmation?.acknowledged]), [['f', 2, undefined], ['e', 9, 2]]);
  assert.match(receiptSentence(r({ state: 'complete', data_planes: 0, acknowledged: 0 }), now), /none had to confirm/);
});

test('the server’s clock is found within the answers’ seconds', () => {
  const clock = new ServerClock();
  clock.learn('not a date', 0, 0);
  assert.equal(clock.offset, 0);
  clock.learn(new Date(1_000_000).toUTCString(), 1_000_400, 1_000_500);
  assert.equal(clock.offset, 0, 'this machine may be right');
  const behind = new ServerClock();
  behind.learn(new Date(1_060_000).toUTCString(), 1_000_000, 1_000_100);
  assert.equal(behind.offset, 59_900);
  behind.learn(new Date(1_000_000).toUTCString(), 1_000_000, 1_000_100);
  assert.ok(Math.abs(behind.offset) <= 1000, 'a clock that is set is followed');
});

test('times are short', () => {
  assert.equal(span(4_000), '4 s');
  assert.equal(span(200_000), '3 min');
  assert.equal(span(91 * 86400e3), '91 d');
  assert.equal(relative(now, now), 'just now');
  assert.equal(relative(now + 3 * 86400e3, now), 'in 3 d');
});
