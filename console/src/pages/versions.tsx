import { useQuery } from '@tanstack/react-query';
import { api, project, unwrap, type Key, type Schemas } from '../api/client.ts';
import { forgetKeys, queries } from '../api/queries.ts';
import { curl, projectPath, tare } from '../logic/commands.ts';
import { rotationSentence } from '../logic/sentences.ts';
import { Await, CopyAs, Fault, Panel, Tone, useAction, useNow, When } from '../ui/basics.tsx';

type Version = Schemas['KeyVersion'];

/** The secrets that a key has had, which of them can still serve, and how far the data planes are. Nothing of a key that was never rotated. */
export function VersionsPanel({ item, display, mayWrite }: { item: Key; display: string; mayWrite: boolean }) {
  const params = { path: { ...project(), id: item.id } };
  const versions = useQuery<Schemas['VersionsResponse']>({
    queryKey: ['versions', item.id],
    refetchInterval: (query) => (query.state.data?.receipt?.state === 'pending' ? 1_000 : 30_000),
    queryFn: ({ signal }) => unwrap(api.GET('/v1/customers/{customer_id}/projects/{project_id}/aikeys/{id}/versions', { params, signal })),
  });
  const now = useNow();
  const acting = useAction(async (act: 'activate' | 'destroy', version: number) => {
    const one = { path: { ...params.path, version }, header: { 'If-Match': item.etag } };
    if (act === 'destroy') await unwrap(api.DELETE('/v1/customers/{customer_id}/projects/{project_id}/aikeys/{id}/versions/{version}', { params: one }));
    else {
      const { key } = await unwrap(api.POST('/v1/customers/{customer_id}/projects/{project_id}/aikeys/{id}/versions/{version}/activate', { params: one }));
      queries.setQueryData<Key>(['key', item.id], key);
    }
    await forgetKeys();
  });
  if (versions.data && versions.data.versions.length < 2) return null;
  return (
    <Panel title="Versions" note="of its secret">
      <Await query={versions} rows={2}>
        {({ versions: all, receipt }) => (
          <>
            {receipt && <p className="panel-body">{rotationSentence(receipt, display, all.some((v) => v.version === receipt.replaced_version && v.state === 'retiring'))}</p>}
            <table className="stack">
              <thead><tr><th scope="col">Version</th><th scope="col">State</th><th scope="col">Added</th>{mayWrite && <th scope="col"><span className="unseen">Actions</span></th>}</tr></thead>
              <tbody>
                {all.map((v) => (
                  <tr key={v.version}>
                    <td><b>{v.version}</b> {v.display_suffix && <code className="quiet">…{v.display_suffix}</code>}</td>
                    <td data-label="State">{stateOf(v)}{v.state === 'retiring' && v.retires_at && <span className="quiet"> · destroyed <When at={v.retires_at} now={now} /></span>}</td>
                    <td data-label="Added"><When at={v.created_at} now={now} /> by {v.created_by}</td>
                    {mayWrite && (
                      <td className="do">
                        {(v.state === 'pending' || v.state === 'retiring') && (
                          <>
                            <button type="button" disabled={acting.busy} aria-label={`${v.state === 'pending' ? 'Activate' : 'Roll back to'} version ${v.version}`} onClick={() => void acting.run('activate', v.version)}>{v.state === 'pending' ? 'Activate' : 'Roll back'}</button>{' '}
                            <button type="button" className="bad" disabled={acting.busy} aria-label={`Destroy version ${v.version}`} onClick={() => void acting.run('destroy', v.version)}>Destroy</button>
                          </>
                        )}
                      </td>
                    )}
                  </tr>
                ))}
              </tbody>
            </table>
          </>
        )}
      </Await>
      {acting.error !== undefined && <Fault error={acting.error} />}
      <div className="panel-body"><CopyAs commands={[curl(location.origin, 'GET', projectPath(project(), `/aikeys/${item.id}/versions`)), tare(['byok', 'versions', item.id])]} /></div>
    </Panel>
  );
}

function stateOf({ state }: Version) {
  switch (state) {
    case 'active': return <Tone tone="ok">serves</Tone>;
    case 'pending': return <Tone tone="warn">waits to be activated</Tone>;
    case 'retiring': return 'can be brought back';
    default: return <span className="quiet">{state}</span>;
  }
}
