import { useMemo, useState } from 'react';
import { api, project, unwrap, type Policy } from '../api/client.ts';
import { queries, useConnection, useKeys, usePolicy, useProviders, useUsage } from '../api/queries.ts';
import { curl, projectPath, tare } from '../logic/commands.ts';
import { effectOf } from '../logic/policy.ts';
import { Await, CopyAs, Fault, Field, Page, Panel, Tone, useAction, useNow, When } from '../ui/basics.tsx';
import { nameOf } from './keys.tsx';
import { Servers } from './servers.tsx';

export function PolicyPage() {
  const policy = usePolicy();
  return (
    <Page title="Policy" lead="Whose keys serve whom in this project.">
      <Await query={policy} rows={6}>{(now) => <Form key={now.updated_at ?? ''} saved={now} />}</Await>
      <Servers />
    </Page>
  );
}

const userKeys: [Policy['user_keys'], string, string][] = [
  ['allow', 'Members may use keys of their own', 'A member’s own key serves first; members without one are served by the project’s.'],
  ['require', 'Members must use keys of their own', 'The project’s keys serve nobody.'],
  ['forbid', 'Only the project’s keys serve', 'Members’ own keys are stored, but serve nobody.'],
];
const onBadKey: [Policy['on_bad_key'], string, string][] = [
  ['fail', 'Return the provider’s error', 'A bad key shows at once.'],
  ['next_key', 'Try the next key', 'The refused key is skipped for five minutes.'],
];
const onLimited: [NonNullable<Policy['on_limited']>, string, string][] = [
  ['fail', 'Return the 429', 'Callers see a limit at once, the provider’s or the key’s own.'],
  ['next_key', 'Use the next key', 'Data planes set the key aside for as long as the provider says, or while it is at its own limit.'],
];
const operations: [NonNullable<Policy['operations']>, string, string][] = [
  ['inference', 'Inference only', 'Requests that administer a provider’s account, or create credentials, are refused.'],
  ['all', 'Everything', 'Credentials created this way outlive a revocation here.'],
];

type Draft = Required<Pick<Policy, 'user_keys' | 'user_keys_by_provider' | 'on_bad_key' | 'on_limited' | 'operations'>> & { removal_grace_days: number | undefined };

function Form({ saved }: { saved: Policy }) {
  const { who } = useConnection();
  const isOwner = who?.role === 'owner';
  const providers = useProviders();
  const keys = useKeys();
  const now = useNow();
  const since = useMemo(() => new Date(Math.floor((Date.now() - 30 * 86400e3) / 86400e3) * 86400e3).toISOString(), []);
  const usage = useUsage({ from: since }, isOwner);
  const start: Draft = { user_keys: saved.user_keys, user_keys_by_provider: saved.user_keys_by_provider, on_bad_key: saved.on_bad_key, on_limited: saved.on_limited ?? 'fail', operations: saved.operations ?? 'inference', removal_grace_days: saved.removal_grace_days };
  const [draft, setDraft] = useState(start);
  const [stale, setStale] = useState(false);
  const dirty = JSON.stringify(draft) !== JSON.stringify(start);
  const effects = dirty && keys.data ? effectOf(saved, { ...saved, ...draft }, keys.data, usage.data?.entries ?? [], (slug) => nameOf(slug, providers.data), now) : [];
  const { run, busy, error } = useAction(async () => {
    // The service replaces the whole policy, so look first whether it is still the one that was read.
    const { policy: current } = await unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/policy', { params: { path: project() } }));
    if (current.updated_at !== saved.updated_at) {
      setStale(true);
      return;
    }
    const { policy } = await unwrap(api.PUT('/v1/customers/{customer_id}/projects/{project_id}/policy', { params: { path: project() }, body: draft }));
    queries.setQueryData(['policy'], policy);
    await queries.invalidateQueries();
  });
  const exceptions = Object.entries(draft.user_keys_by_provider);
  const setException = (slug: string, rule: string) => setDraft((d) => {
    const next = { ...d.user_keys_by_provider };
    if (rule) next[slug] = rule as Policy['user_keys']; else delete next[slug];
    return { ...d, user_keys_by_provider: next };
  });
  const choice = <N extends keyof Draft>(name: N, legend: string, options: [Draft[N], string, string][]) => (
    <fieldset disabled={!isOwner || busy}>
      <legend>{legend}</legend>
      {options.map(([value, label, what]) => (
        <label key={String(value)} className="check choice"><input type="radio" name={name} checked={draft[name] === value} onChange={() => setDraft((d) => ({ ...d, [name]: value }))} /><span>{label}<br /><span className="quiet">{what}</span></span></label>
      ))}
    </fieldset>
  );
  return (
    <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
      {!isOwner && <p className="notice">Only an owner may change the policy.</p>}
      <Panel title="Members’ own keys"><div className="panel-body">
        {choice('user_keys', 'For every provider', userKeys)}
        <fieldset disabled={!isOwner || busy}>
          <legend>Except for</legend>
          {exceptions.map(([slug, rule]) => (
            <div key={slug} className="bar">
              <span className="exception">{nameOf(slug, providers.data)}</span>
              <select aria-label={`Own keys for ${nameOf(slug, providers.data)}`} value={rule} onChange={(e) => setException(slug, e.target.value)}>{userKeys.map(([v]) => <option key={v}>{v}</option>)}</select>
              {isOwner && <button type="button" onClick={() => setException(slug, '')} aria-label={`Remove the exception for ${nameOf(slug, providers.data)}`}>Remove</button>}
            </div>
          ))}
          {isOwner && <select aria-label="Add an exception" value="" onChange={(e) => setException(e.target.value, draft.user_keys === 'forbid' ? 'allow' : 'forbid')}>
            <option value="">Add a provider…</option>
            {providers.data?.filter((p) => !draft.user_keys_by_provider[p.slug]).map((p) => <option key={p.slug} value={p.slug}>{p.display_name}</option>)}
          </select>}
          {!isOwner && exceptions.length === 0 && <p className="quiet">No provider.</p>}
        </fieldset>
      </div></Panel>
      <Panel title="When a provider refuses a key"><div className="panel-body">{choice('on_bad_key', 'The caller’s request', onBadKey)}</div></Panel>
      <Panel title="When a key is at a limit"><div className="panel-body">{choice('on_limited', 'Requests from then on', onLimited)}</div></Panel>
      <Panel title="What the project’s keys may be used for"><div className="panel-body">{choice('operations', 'Requests', operations)}</div></Panel>
      <Panel title="When a member is removed"><div className="panel-body">
        <Field label="Days for which that can be undone" hint="Then the member’s own keys are destroyed; after 0 days it can’t be undone. Empty is 30.">
          {(ids) => <input {...ids} type="number" min={0} max={365} step={1} placeholder="30" disabled={!isOwner || busy} value={draft.removal_grace_days ?? ''} onChange={(e) => { const days = e.target.value; setDraft((d) => ({ ...d, removal_grace_days: days === '' ? undefined : Number(days) })); }} />}
        </Field>
      </div></Panel>
      {dirty && (
        <Panel title="What this changes" note="from who was served in the last 30 days">
          <ul className="effects panel-body" role="status">
            {effects.map((e, i) => <li key={i}><Tone tone={e.tone}>{e.provider && <b>{e.provider}. </b>}{e.text}</Tone></li>)}
            {effects.length === 0 && <li className="quiet">No recently served member is affected.</li>}
          </ul>
        </Panel>
      )}
      {stale && <div className="fault" role="alert"><p><b>Someone else has changed the policy in the meantime.</b> Nothing was saved.</p><button type="button" onClick={() => void queries.invalidateQueries({ queryKey: ['policy'] })}>Show the new one</button></div>}
      {error !== undefined && <Fault error={error} />}
      <div className="bar">
        {isOwner && <><button type="submit" className="primary" disabled={!dirty || busy}>{busy ? 'Saving…' : 'Save'}</button>{dirty && <button type="button" onClick={() => setDraft(start)}>Discard</button>}</>}
        <span className="quiet">{saved.updated_at ? <>Last changed <When at={saved.updated_at} now={now} /> by {saved.updated_by}.</> : 'This is the default: nobody has changed it.'}</span>
      </div>
      <Terminal draft={draft} />
    </form>
  );
}

function Terminal({ draft }: { draft: Draft }) {
  const words = Object.entries(draft.user_keys_by_provider).map(([slug, rule]) => ` --user-keys-for ${slug}=${rule}`).join('');
  return <CopyAs commands={[
    curl(location.origin, 'PUT', projectPath(project(), '/policy'), draft),
    { label: 'tare', text: `${tare(['policy', 'set'], { 'user-keys': draft.user_keys, 'on-bad-key': draft.on_bad_key, 'on-limited': draft.on_limited, operations: draft.operations, 'removal-grace-days': draft.removal_grace_days?.toString() }).text} --reset${words}` },
  ]} />;
}
