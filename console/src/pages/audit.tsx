import { useMemo } from 'react';
import { project, type Event } from '../api/client.ts';
import { readEvents, useEvents, useKeys, useMembers, useProviders, type EventFilter } from '../api/queries.ts';
import { curl, projectPath, query, tare } from '../logic/commands.ts';
import { toCSV } from '../logic/csv.ts';
import { actorOf, changesOf, deed, titleOf } from '../logic/sentences.ts';
import { exact } from '../logic/time.ts';
import { Await, Copy, Dialog, download, Empty, Fault, Page, Panel, Tone, useAction, useNow, When } from '../ui/basics.tsx';
import { Link, useFilters } from '../ui/router.tsx';

const types = [
  'key.registered', 'key.revoked', 'key.updated', 'key.disabled', 'key.enabled', 'key.expiring', 'key.expired', 'key.verified', 'key.failing',
  'key.exposed', 'key.rotated', 'key.version_added', 'key.rotation_rolled_back', 'key.version_destroyed', 'policy.set', 'member.set', 'member.removed', 'token.created', 'token.revoked',
  'provider.created', 'provider.deleted',
];

const spans: Record<string, number> = { '1h': 3600e3, '24h': 86400e3, '7d': 7 * 86400e3, '30d': 30 * 86400e3 };
const maxExport = 10_000;

export function AuditPage() {
  const [f, setFilters] = useFilters(['key', 'actor', 'type', 'outcome', 'provider', 'since', 'from', 'to', 'event']);
  const keys = useKeys();
  const providers = useProviders();
  const members = useMembers();
  const now = useNow();
  // "Since" moves with the clock; a query's key must not, so it is rounded to the minute in which the filter was set.
  const from = useMemo(() => (f.since && spans[f.since] ? new Date(Math.floor((Date.now() - spans[f.since]!) / 60_000) * 60_000).toISOString() : dayStart(f.from)), [f.since, f.from]);
  const filter: EventFilter = {
    key_id: f.key || undefined, actor: f.actor || undefined, type: f.type || undefined, outcome: f.outcome || undefined,
    provider: f.provider || undefined, from, to: dayStart(f.to, 1),
  };
  const events = useEvents(filter);
  const known = useMemo(() => new Map((keys.data ?? []).map((k) => [k.id, k])), [keys.data]);
  const exporting = useAction(async (form: 'ndjson' | 'csv') => {
    const all: Event[] = [];
    let token: string | undefined;
    do {
      const page = await readEvents(filter, 500, token);
      all.push(...page.events);
      token = page.next_page_token;
    } while (token && all.length < maxExport);
    const name = `audit-${project().project_id}-${new Date().toISOString().slice(0, 10)}`;
    if (form === 'csv') download(`${name}.csv`, 'text/csv', toCSV(all));
    else download(`${name}.ndjson`, 'application/x-ndjson', all.map((e) => JSON.stringify(e)).join('\n') + '\n');
  });
  const chosen = f.event ? events.data?.pages.flatMap((p) => p.events).find((e) => e.id === f.event) : undefined;
  const isFiltered = Object.values(filter).some(Boolean);
  return (
    <Page title="Audit" lead="Who did what to which key, and what was refused. A change and its entry are written together."
      tools={<><button type="button" disabled={exporting.busy} onClick={() => void exporting.run('csv')}>Export CSV</button><button type="button" disabled={exporting.busy} onClick={() => void exporting.run('ndjson')}>Export NDJSON</button></>}
      commands={[
        curl(location.origin, 'GET', projectPath(project(), `/events${query(filter as Record<string, string | undefined>)}`)),
        tare(['byok', 'events'], { key: filter.key_id, actor: filter.actor, type: filter.type, outcome: filter.outcome, provider: filter.provider, from: filter.from, to: filter.to }),
      ]}>
      <div className="bar filters">
        <select aria-label="Outcome" value={f.outcome} onChange={(e) => setFilters({ outcome: e.target.value })}>
          <option value="">Allowed and denied</option><option value="allowed">Allowed</option><option value="denied">Denied</option>
        </select>
        <select aria-label="When" value={f.from || f.to ? 'days' : f.since} onChange={(e) => setFilters(e.target.value === 'days' ? { since: '', from: new Date(now).toISOString().slice(0, 10) } : { since: e.target.value, from: '', to: '' })}>
          <option value="">Any time</option><option value="1h">Last hour</option><option value="24h">Last 24 hours</option><option value="7d">Last 7 days</option><option value="30d">Last 30 days</option><option value="days">From day to day…</option>
        </select>
        {(f.from || f.to) && <><input type="date" aria-label="From" value={f.from} onChange={(e) => setFilters({ from: e.target.value })} /><input type="date" aria-label="To" value={f.to} onChange={(e) => setFilters({ to: e.target.value })} /></>}
        <input type="search" data-key="/" aria-label="Who" placeholder="Who" list="actors" value={f.actor} onChange={(e) => setFilters({ actor: e.target.value.replace(/\s/g, '') })} />
        <datalist id="actors">{members.data?.map((m) => <option key={m.user_id} value={m.user_id} />)}</datalist>
        <select aria-label="What" value={f.type} onChange={(e) => setFilters({ type: e.target.value })}>
          <option value="">Everything</option>{types.map((t) => <option key={t} value={t}>{t.replace('.', ' ').replaceAll('_', ' ')}</option>)}
        </select>
        <select aria-label="Provider" value={f.provider} onChange={(e) => setFilters({ provider: e.target.value })}>
          <option value="">All providers</option>{providers.data?.map((p) => <option key={p.slug} value={p.slug}>{p.display_name}</option>)}
        </select>
        {f.key && <span className="chip">{known.get(f.key) ? titleOf(known.get(f.key)!) : f.key} <button type="button" className="plain" aria-label="All keys" onClick={() => setFilters({ key: '' })}>✕</button></span>}
        {isFiltered && <button type="button" className="link" onClick={() => setFilters({ key: '', actor: '', type: '', outcome: '', provider: '', since: '', from: '', to: '' })}>Clear</button>}
      </div>
      {exporting.error !== undefined && <Fault error={exporting.error} />}
      <Panel>
        <Await query={events} rows={8}>
          {({ pages }) => {
            const all = pages.flatMap((p) => p.events);
            if (all.length === 0) {
              return f.outcome === 'denied' ? <Empty title="Nothing was denied."><p className="quiet">That is good news.</p></Empty> : <Empty title={isFiltered ? 'No entry fits.' : 'Nothing has happened yet.'} />;
            }
            return (
              <ol className="trail">
                {all.map((e, i) => (
                  <Entry key={e.id} event={e} text={deed(e, known)} now={now} gap={gapBefore(all[i - 1], e)} onOpen={() => setFilters({ event: e.id })} />
                ))}
              </ol>
            );
          }}
        </Await>
        {events.hasNextPage && <div className="bar panel-foot"><button type="button" disabled={events.isFetchingNextPage} onClick={() => void events.fetchNextPage()}>{events.isFetchingNextPage ? 'Loading…' : 'Older'}</button></div>}
        {events.data && !events.hasNextPage && events.data.pages[0]!.events.length > 0 && <p className="panel-foot quiet">This is the beginning of the trail{isFiltered ? ' as it is filtered' : ''}.</p>}
      </Panel>
      {chosen && (
        <Dialog title="Entry" wide onClose={() => setFilters({ event: '' })}>
          <p><b>{actorOf(chosen)}</b> {deed(chosen, known)}{chosen.outcome === 'denied' && <> · <Tone tone="bad">denied</Tone></>}</p>
          <dl className="facts">
            <dt>When</dt><dd>{exact(chosen.at)}{chosen.first_at && <> (the first {exact(chosen.first_at)})</>}</dd>
            {chosen.source_ip && <><dt>From</dt><dd><code>{chosen.source_ip}</code></dd></>}
            {chosen.request_id && <><dt>Request</dt><dd><code>{chosen.request_id}</code></dd></>}
            {chosen.actor.token_id && <><dt>API key</dt><dd><code>{chosen.actor.token_id}</code></dd></>}
            {changesOf(chosen).length > 0 && <><dt>Change</dt><dd>{changesOf(chosen).map((c) => <div key={c}>{c}</div>)}</dd></>}
            {chosen.key_id && known.has(chosen.key_id) && <><dt>Key</dt><dd><Link href={`/keys/${chosen.key_id}`}>{titleOf(known.get(chosen.key_id)!)}</Link></dd></>}
          </dl>
          <pre tabIndex={0} aria-label="The entry as JSON"><code>{JSON.stringify(chosen, null, 2)}</code></pre>
          <div className="bar end"><Copy text={JSON.stringify(chosen, null, 2)} label="Copy JSON" /><Copy text={() => location.href} label="Copy link" /></div>
        </Dialog>
      )}
    </Page>
  );
}

const dayStart = (day: string, plus = 0) => {
  if (!day) return undefined;
  const at = new Date(`${day}T00:00:00`);
  if (Number.isNaN(at.getTime())) return undefined;
  at.setDate(at.getDate() + plus);
  return at.toISOString();
};

/** The days without an entry between two of them, if there are any to speak of. */
function gapBefore(newer: Event | undefined, older: Event): number {
  if (!newer) return 0;
  const days = Math.floor((Date.parse(newer.at) - Date.parse(older.at)) / 86400e3);
  return days >= 3 ? days : 0;
}

function Entry({ event, text, now, gap, onOpen }: { event: Event; text: string; now: number; gap: number; onOpen: () => void }) {
  return (
    <>
      {gap > 0 && <li className="gap">{gap} days without an entry</li>}
      <li>
        <span className="quiet"><When at={event.at} now={now} /></span>
        <button type="button" className="row" data-row onClick={onOpen}><b>{actorOf(event)}</b> {text}</button>
        <span className="end">{event.outcome === 'denied' && <Tone tone="bad">denied</Tone>} {event.source_ip && <code className="quiet">{event.source_ip}</code>}</span>
      </li>
    </>
  );
}
