import { project } from '../api/client.ts';
import { useConnection, useFetches, useKeys, useProviders } from '../api/queries.ts';
import { curl, projectPath, query, tare } from '../logic/commands.ts';
import { titleOf } from '../logic/sentences.ts';
import { Await, Empty, Page, Panel, Tone, useNow, When } from '../ui/basics.tsx';
import { Link, useFilters } from '../ui/router.tsx';
import { nameOf } from './keys.tsx';

export function PlanesPage() {
  const { who } = useConnection();
  const isOwner = who?.role === 'owner';
  const [f, setFilters] = useFilters(['plane', 'decision', 'provider']);
  const filter = { data_plane: f.plane || undefined, decision: f.decision || undefined, provider: f.provider || undefined };
  const fetches = useFetches(filter, isOwner, 200);
  const keys = useKeys();
  const providers = useProviders();
  const now = useNow();
  const names = (id: string, name: string | undefined) => (id === 'control_plane' ? 'the service itself' : name ?? id);
  const title = (id: string | undefined) => { const key = keys.data?.find((k) => k.id === id); return key ? titleOf(key) : 'a member’s own key'; };
  return (
    <Page title="Data planes" lead="Which gateway asked for which key, for whom, and what it got. A gateway fetches a key once and then serves from memory."
      commands={[curl(location.origin, 'GET', projectPath(project(), `/fetches${query(filter)}`)), tare(['byok', 'fetches'], { 'data-plane': f.plane, decision: f.decision, provider: f.provider })]}>
      {!isOwner ? <Empty title="Only an owner sees this."><p className="quiet">The receipt of each revocation names the data planes to every member.</p></Empty> : (
        <>
          <div className="bar filters">
            <select aria-label="Decision" value={f.decision} onChange={(e) => setFilters({ decision: e.target.value })}><option value="">Given and refused</option><option value="allowed">Given</option><option value="denied">Refused</option></select>
            <select aria-label="Provider" value={f.provider} onChange={(e) => setFilters({ provider: e.target.value })}><option value="">All providers</option>{providers.data?.map((p) => <option key={p.slug} value={p.slug}>{p.display_name}</option>)}</select>
            {f.plane && <span className="chip">{f.plane} <button type="button" className="plain" aria-label="All data planes" onClick={() => setFilters({ plane: '' })}>✕</button></span>}
          </div>
          <Await query={fetches} rows={6}>
            {({ pages }) => {
              const all = pages.flatMap((p) => p.fetches);
              if (all.length === 0) return <Empty title={Object.values(filter).some(Boolean) ? 'No record fits.' : 'No data plane has fetched a key.'}><p className="quiet">While none is connected, a receipt proves only that none had to confirm.</p></Empty>;
              const planes = [...Map.groupBy(all.filter((x) => x.data_plane_id !== 'control_plane'), (x) => x.data_plane ?? x.data_plane_id)];
              return (
                <>
                  <Panel title="Seen lately" note={`in the newest ${all.length === 1 ? 'record' : `${all.length} records`}`}>
                    <table><thead><tr><th scope="col">Data plane</th><th scope="col" className="number">Given</th><th scope="col" className="number">Refused</th><th scope="col">Last</th></tr></thead>
                      <tbody>{planes.map(([name, list]) => <tr key={name}><td><button type="button" className="link" onClick={() => setFilters({ plane: name })}>{name}</button></td><td className="number">{list.filter((x) => x.decision === 'allowed').length}</td><td className="number">{list.filter((x) => x.decision === 'denied').length}</td><td><When at={list[0]?.at} now={now} /></td></tr>)}</tbody></table>
                  </Panel>
                  <Panel title="Records">
                    <ol className="trail">
                      {all.map((x) => (
                        <li key={`${x.request_id}${x.at}`}><span className="quiet"><When at={x.at} now={now} /></span>
                          <span><b>{names(x.data_plane_id, x.data_plane)}</b> {x.decision === 'allowed' ? 'got' : 'was refused'} {x.key_id ? (keys.data?.some((k) => k.id === x.key_id) ? <Link href={`/keys/${x.key_id}`} data-row>{title(x.key_id)}</Link> : title(x.key_id)) : `a key of ${nameOf(x.provider, providers.data)}`}{x.user_id && ` for ${x.user_id}`}</span>
                          <span className="end">{x.decision === 'denied' ? <Tone tone="bad">{x.reason.replaceAll('_', ' ')}</Tone> : <span className="quiet">{x.reason.replaceAll('_', ' ')}</span>}</span></li>
                      ))}
                    </ol>
                    {fetches.hasNextPage && <div className="bar panel-foot"><button type="button" disabled={fetches.isFetchingNextPage} onClick={() => void fetches.fetchNextPage()}>Older</button></div>}
                  </Panel>
                </>
              );
            }}
          </Await>
        </>
      )}
    </Page>
  );
}
