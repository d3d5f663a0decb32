import { useMemo } from 'react';
import { project, type Key, type Usage } from '../api/client.ts';
import { useConnection, useKeys, useMembers, useProviders, useUsage } from '../api/queries.ts';
import { curl, projectPath, query, tare } from '../logic/commands.ts';
import { titleOf } from '../logic/sentences.ts';
import { Await, Empty, Page, Panel, Tone, useNow, When } from '../ui/basics.tsx';
import { Link, useFilters } from '../ui/router.tsx';
import { sum } from './key.tsx';
import { nameOf } from './keys.tsx';

const day = 86400e3;

export function UsagePage() {
  const { who } = useConnection();
  const isOwner = who?.role === 'owner';
  const [f, setFilters] = useFilters(['days', 'user', 'provider', 'key', 'by']);
  const keys = useKeys();
  const members = useMembers();
  const providers = useProviders();
  const days = Number(f.days) || 7;
  const from = useMemo(() => new Date((Math.floor(Date.now() / day) - days + 1) * day).toISOString(), [days]);
  const filter = { from, user_id: f.user || undefined, provider: f.provider || undefined, key_id: f.key || undefined };
  const usage = useUsage(filter);
  const known = useMemo(() => new Map((keys.data ?? []).map((k) => [k.id, k])), [keys.data]);
  return (
    <Page title="Usage" lead={isOwner ? 'Which key served whom, and how often. Data planes report every 10 seconds.' : 'Which keys served you, and how often. Data planes report every 10 seconds.'}
      commands={[curl(location.origin, 'GET', projectPath(project(), `/usage${query(filter)}`)), tare(['byok', 'usage'], { from: from.slice(0, 10), user: filter.user_id, provider: filter.provider, key: filter.key_id })]}>
      <div className="bar filters">
        <select aria-label="When" value={String(days)} onChange={(e) => setFilters({ days: e.target.value })}><option value="1">Today</option><option value="7">Last 7 days</option><option value="30">Last 30 days</option><option value="90">Last 90 days</option></select>
        {isOwner && <select aria-label="Who" value={f.user} onChange={(e) => setFilters({ user: e.target.value })}><option value="">Everybody</option>{members.data?.map((m) => <option key={m.user_id}>{m.user_id}</option>)}</select>}
        <select aria-label="Provider" value={f.provider} onChange={(e) => setFilters({ provider: e.target.value })}><option value="">All providers</option>{providers.data?.map((p) => <option key={p.slug} value={p.slug}>{p.display_name}</option>)}</select>
        <select aria-label="Grouped by" value={f.by || 'key'} onChange={(e) => setFilters({ by: e.target.value === 'key' ? '' : e.target.value })}><option value="key">By key</option><option value="user">By user</option><option value="provider">By provider</option></select>
        {f.key && <span className="chip">{known.get(f.key)?.name ?? f.key} <button type="button" className="plain" aria-label="All keys" onClick={() => setFilters({ key: '' })}>✕</button></span>}
      </div>
      <Await query={usage} rows={5}>
        {({ entries, more }) => entries.length === 0
          ? <Empty title="Nothing was served."><p className="quiet">Requests show up to 10 seconds after they are made.</p></Empty>
          : <><Days entries={entries} from={from} days={days} /><Groups entries={entries} by={f.by || 'key'} known={known} display={(slug) => nameOf(slug, providers.data)} />{more && <p className="notice">These are the newest 5,000 entries. Narrow the list to see older ones.</p>}</>}
      </Await>
    </Page>
  );
}

/** Requests by day, as bars. The table below has the numbers. */
function Days({ entries, from, days }: { entries: Usage[]; from: string; days: number }) {
  const start = Date.parse(from);
  const list = Array.from({ length: days }, (_, i) => {
    const name = new Date(start + i * day).toISOString().slice(0, 10);
    const of = entries.filter((e) => e.day === name);
    return { name, requests: sum(of.map((e) => e.requests)), refusals: sum(of.map((e) => e.refusals)) };
  });
  const top = Math.max(1, ...list.map((d) => d.requests));
  const total = sum(list.map((d) => d.requests));
  const wide = days <= 7 ? 4 : 8;
  const refused = sum(list.map((d) => d.refusals));
  return (
    <Panel title={`${total.toLocaleString()} request${total === 1 ? '' : 's'}`} note={refused > 0 ? <Tone tone="warn">{refused.toLocaleString()} refused</Tone> : 'none refused'}>
      <svg className="days" viewBox={`0 0 ${days * 10} 52`} preserveAspectRatio="none" role="img" aria-label={`Requests by day, at most ${top}`}>
        {list.map((d, i) => {
          const height = 50 * d.requests / top;
          const bad = d.requests ? height * Math.min(1, d.refusals / d.requests) : 0;
          return <g key={d.name}><title>{`${d.name}: ${d.requests} requests, ${d.refusals} refused`}</title><rect className="hit" x={i * 10} y="0" width="10" height="52" /><rect className="served" x={i * 10 + 5 - wide / 2} y={51 - height} width={wide} height={Math.max(height, 0.5)} /><rect className="refused" x={i * 10 + 5 - wide / 2} y={51 - bad} width={wide} height={bad} /></g>;
        })}
      </svg>
      <p className="axis"><span>{list[0]?.name}</span>{days > 1 && <span>{list.at(-1)?.name}</span>}</p>
    </Panel>
  );
}

function Groups({ entries, by, known, display }: { entries: Usage[]; by: string; known: Map<string, Key>; display: (slug: string) => string }) {
  const now = useNow();
  const groups = [...Map.groupBy(entries, (e) => (by === 'user' ? e.user_id ?? '' : by === 'provider' ? e.provider : e.key_id))].map(([name, list]) => ({
    name, list, requests: sum(list.map((e) => e.requests)), refusals: sum(list.map((e) => e.refusals)), users: new Set(list.map((e) => e.user_id)).size, last: list.map((e) => e.last_used_at).sort().at(-1),
  })).sort((a, b) => b.requests - a.requests);
  const label = (name: string, first: Usage) => {
    if (by === 'user') return name || <span className="quiet">no particular user</span>;
    if (by === 'provider') return display(name);
    const key = known.get(name);
    return key ? <><Link href={`/keys/${name}`} data-row>{titleOf(key)}</Link> <span className="quiet">{display(key.provider)}</span></> : <><span>a key of {first.user_id ?? 'a member'}’s own</span> <span className="quiet">{display(first.provider)}</span></>;
  };
  return (
    <Panel>
      <table>
        <thead><tr><th scope="col">{by === 'user' ? 'User' : by === 'provider' ? 'Provider' : 'Key'}</th><th scope="col" className="number">Requests</th><th scope="col" className="number">Refused</th>{by !== 'user' && <th scope="col" className="number wide-only">Users</th>}<th scope="col">Last</th></tr></thead>
        <tbody>{groups.map((g) => <tr key={g.name}><td>{label(g.name, g.list[0]!)}</td><td className="number">{g.requests.toLocaleString()}</td><td className="number">{g.refusals > 0 ? <Tone tone="warn">{g.refusals.toLocaleString()}</Tone> : 0}</td>{by !== 'user' && <td className="number wide-only">{g.users}</td>}<td><When at={g.last} now={now} /></td></tr>)}</tbody>
      </table>
    </Panel>
  );
}
