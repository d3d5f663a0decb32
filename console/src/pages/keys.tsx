import { useMemo, useState } from 'react';
import { project, type Key, type Policy, type Provider } from '../api/client.ts';
import { useConnection, useKeys, usePolicy, useProviders } from '../api/queries.ts';
import { curl, projectPath, query, tare } from '../logic/commands.ts';
import { endingOf, looksSecret } from '../logic/detect.ts';
import { ladder, roleOf, ruleFor } from '../logic/ladder.ts';
import { healthOf, titleOf } from '../logic/sentences.ts';
import { Await, Empty, Page, Panel, Tone, useNow, When } from '../ui/basics.tsx';
import { AddKey } from './add.tsx';
import { FirstSteps } from './first.tsx';
import { RevokeDialog } from './revoke.tsx';
import { Link, useFilters } from '../ui/router.tsx';

type State = 'active' | 'attention' | 'revoked' | 'all';

export function KeysPage() {
  const keys = useKeys();
  const policy = usePolicy();
  const providers = useProviders();
  const { who } = useConnection();
  const now = useNow();
  const [filters, setFilters] = useFilters(['q', 'state', 'scope', 'provider', 'add']);
  const [revoking, setRevoking] = useState<Key>();
  const state = (filters.state || 'active') as State;
  const shown = useMemo(() => {
    const words = filters.q.toLowerCase().split(/\s+/).filter(Boolean);
    return (keys.data ?? []).filter((k) => {
      const text = `${k.name} ${k.display_suffix} ${k.id} ${k.provider} ${k.created_by}`.toLowerCase();
      if (!words.every((w) => text.includes(w))) return false;
      if (filters.scope && (filters.scope === 'mine') !== k.user_scope) return false;
      if (filters.provider && k.provider !== filters.provider) return false;
      if (state === 'active') return k.state !== 'revoked';
      if (state === 'revoked') return k.state === 'revoked';
      if (state === 'attention') return k.state !== 'revoked' && needsAttention(k);
      return true;
    });
  }, [keys.data, filters.q, filters.scope, filters.provider, state]);
  const attention = (keys.data ?? []).filter((k) => k.state !== 'revoked' && needsAttention(k)).length;
  const grouped = useMemo(() => Map.groupBy(shown, (k) => k.provider), [shown]);
  const order = useMemo(() => [...grouped.keys()].sort((a, b) => nameOf(a, providers.data).localeCompare(nameOf(b, providers.data))), [grouped, providers.data]);
  const isFiltered = Boolean(filters.q || filters.scope || filters.provider || filters.state);
  const path = projectPath(project(), `/aikeys${query({ state: state === 'active' || state === 'revoked' ? state : undefined, provider: filters.provider })}`);
  return (
    <Page title="Keys" tools={<button type="button" className="primary" data-key="a" onClick={() => setFilters({ add: 'key' })}>Add key <kbd aria-hidden="true">A</kbd></button>}
      commands={[curl(location.origin, 'GET', path), tare(['byok', 'list'], { provider: filters.provider, state: state === 'active' || state === 'revoked' ? state : undefined })]}>
      <div className="bar filters">
        <input type="search" data-key="/" aria-label="Search keys" placeholder="Search name, ending, id" value={filters.q} onChange={(e) => setFilters({ q: e.target.value })}
          onPaste={(e) => { // the filters are in the URL, so a secret must not become one: its ending finds the key
            const pasted = e.clipboardData.getData('text').trim();
            if (/^[0-9A-Z]{26}$/.test(pasted) || !looksSecret(pasted, providers.data ?? [])) return;
            e.preventDefault();
            setFilters({ q: endingOf(pasted) });
          }} />
        <select aria-label="State" value={state} onChange={(e) => setFilters({ state: e.target.value === 'active' ? '' : e.target.value })}>
          <option value="active">Active</option>
          <option value="attention">Needs attention{attention ? ` (${attention})` : ''}</option>
          <option value="revoked">Revoked</option>
          <option value="all">All</option>
        </select>
        <select aria-label="Whose" value={filters.scope} onChange={(e) => setFilters({ scope: e.target.value })}>
          <option value="">Project’s and mine</option>
          <option value="project">The project’s</option>
          <option value="mine">Mine</option>
        </select>
      </div>
      {policy.data?.user_keys === 'forbid' && (keys.data ?? []).some((k) => k.user_scope && k.state !== 'revoked') && (
        <p className="notice">The policy forbids members’ own keys: yours are stored, but serve nobody.</p>
      )}
      <Await query={keys} rows={6}>
        {(all) => shown.length > 0
          ? order.map((provider) => (
            <Group key={provider} provider={provider} keys={grouped.get(provider) ?? []} all={all} policy={policy.data} providers={providers.data} now={now}
              isOwner={who?.role === 'owner'} onRevoke={setRevoking} />
          ))
          : all.some((k) => k.state !== 'revoked') || isFiltered
            ? <Empty title={state === 'attention' && !filters.q ? 'Nothing needs attention.' : state === 'revoked' ? 'No key has been revoked.' : 'No key fits.'}>
                <button type="button" onClick={() => setFilters({ q: '', state: '', scope: '', provider: '' })}>Show all active keys</button>
              </Empty>
            : <FirstSteps onAdd={() => setFilters({ add: 'key' })} />}
      </Await>
      {filters.add && <AddKey onClose={() => setFilters({ add: '' })} />}
      {revoking && <RevokeDialog target={revoking} onClose={() => setRevoking(undefined)} />}
    </Page>
  );
}

const needsAttention = (k: Key) => {
  const { tone } = healthOf(k, k.provider);
  return tone === 'bad' || tone === 'warn' || k.not_serving_reason === 'expired';
};

export const nameOf = (slug: string, providers: readonly Provider[] | undefined) => providers?.find((p) => p.slug === slug)?.display_name ?? slug;

interface GroupProps { provider: string; keys: Key[]; all: Key[]; policy: Policy | undefined; providers: Provider[] | undefined; now: number; isOwner: boolean; onRevoke: (key: Key) => void }

function Group({ provider, keys, all, policy, providers, now, isOwner, onRevoke }: GroupProps) {
  const name = nameOf(provider, providers);
  const active = all.filter((k) => k.provider === provider && k.state !== 'revoked').length;
  const { who } = useConnection();
  const serving = ladder(all, policy, provider, now, who?.user_id).filter((r) => r.verdict === 'serves' || r.verdict === 'shares').map((r) => r.key);
  return (
    <Panel title={name} note={<>{active} active{active > 0 && <> · {serving[0]
      ? <>your requests are served by {serving.length > 1 ? `one of ${serving.length} keys that share the callers` : <b>{titleOf(serving[0])}</b>}</>
      : <Tone tone="warn">your requests are refused{ruleFor(policy, provider) === 'require' ? ': the policy requires a key of your own' : ''}</Tone>}</>}</>} tools={<Link className="quiet-link" href={`/resolve?provider=${provider}`}>Why?</Link>}>
      <table className="keys">
        <thead><tr><th scope="col">Name</th><th scope="col">Ends in</th><th scope="col">Health</th><th scope="col" className="wide-only">Last used</th><th scope="col" className="wide-only">Added</th><th scope="col"><span className="unseen">Actions</span></th></tr></thead>
        <tbody>
          {keys.map((k) => {
            const { role, label } = roleOf(k, all, policy, now);
            const health = healthOf(k, name);
            return (
              <tr key={k.id} data-role={role}>
                <td className="name"><Link href={`/keys/${k.id}`} data-row><b>{k.name}</b></Link> <span className={`tag ${role}`}>{label}</span>{k.user_scope && role !== 'serves-you' && <span className="tag">yours</span>}</td>
                <td className="suffix"><code>{k.display_suffix ? `…${k.display_suffix}` : '—'}</code></td>
                <td className="health">{k.state === 'revoked' ? <span className="quiet">revoked <When at={k.revoked_at} now={now} /> by {k.revoked_by}</span>
                  : <><Tone tone={health.tone}>{health.text}</Tone>{k.expires_at && <span className="quiet"> · expires <When at={k.expires_at} now={now} /></span>}</>}</td>
                <td className="wide-only"><When at={k.last_used_at} now={now} /></td>
                <td className="wide-only"><When at={k.created_at} now={now} /> by {k.created_by}</td>
                <td className="do">{k.state !== 'revoked' && (k.user_scope || isOwner) && <button type="button" className="bad" onClick={() => onRevoke(k)} aria-label={`Revoke ${k.name}`}>Revoke…</button>}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </Panel>
  );
}
