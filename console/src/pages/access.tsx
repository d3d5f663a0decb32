import { useRef, useState } from 'react';
import { api, project, Refusal, signOut, switchProject, unwrap, type Token } from '../api/client.ts';
import { queries, useConnection, useProjects, useTokens } from '../api/queries.ts';
import { curl, tare } from '../logic/commands.ts';
import { exact } from '../logic/time.ts';
import { Await, Copy, CopyAs, Dialog, Fault, Field, Page, Panel, Tone, useAction, useNow, When } from '../ui/basics.tsx';
import { go, useFilters } from '../ui/router.tsx';

const methods: Record<string, string> = { api_key: 'an API key', oidc: 'a session token of the OpenID Connect issuer' };

export function AccessPage() {
  const { who } = useConnection();
  const projects = useProjects();
  const tokens = useTokens();
  const now = useNow();
  const [f, setFilters] = useFilters(['add']);
  const [ending, setEnding] = useState<Token>();
  if (!who) return null;
  const here = project();
  const login = `tare login --base-url ${location.origin}`;
  return (
    <Page title="My access" commands={[curl(location.origin, 'GET', '/v1/whoami'), { label: 'tare', text: 'tare whoami' }]}
      tools={<button type="button" className="primary" data-key="a" onClick={() => setFilters({ add: 'api-key' })}>New API key <kbd aria-hidden="true">A</kbd></button>}>
      <Panel title="This session">
        <dl className="facts">
          <dt>You are</dt><dd><b>{who.user_id}</b></dd>
          <dt>Project</dt><dd>{here.customer_id} / {here.project_id}</dd>
          <dt>Role</dt><dd>{who.role === 'owner' ? 'owner: you may change the project’s keys, policy and members' : who.role === 'member' ? 'member: you may add keys of your own and read the rest' : 'none: ask an owner of the project to add you'}</dd>
          <dt>Signed in with</dt><dd>{methods[who.method] ?? who.method}{who.token_id && <> <code>{who.token_id}</code></>}</dd>
          <dt>Ends</dt><dd>{who.expires_at ? <><When at={who.expires_at} now={now} /> ({exact(who.expires_at)})</> : 'when it is revoked'}</dd>
        </dl>
        <div className="bar panel-foot"><button type="button" onClick={() => { queries.clear(); signOut(); }}>Sign out of this tab</button></div>
      </Panel>
      <Panel title="My projects">
        <Await query={projects} rows={1}>
          {(all) => (
            <table><tbody>{all.map((p) => (
              <tr key={p.project_id}><td><b>{p.project_id}</b></td><td>{p.role}</td><td className="do">{p.project_id === here.project_id ? <Tone tone="ok">shown</Tone>
                : <button type="button" onClick={() => { switchProject(p.project_id, p.role); queries.clear(); go('/keys'); }}>Switch to {p.project_id}</button>}</td></tr>
            ))}</tbody></table>
          )}
        </Await>
      </Panel>
      <Panel title="My API keys" note="active ones">
        <Await query={tokens} rows={2}>
          {(all) => (
            <table className="stack">
              <thead><tr><th scope="col">Name</th><th scope="col">Projects</th><th scope="col">Last used</th><th scope="col">Expires</th><th scope="col"><span className="unseen">Actions</span></th></tr></thead>
              <tbody>{all.map((t) => (
                <tr key={t.token_id}>
                  <td><b>{t.name ?? <span className="quiet">made by an operator</span>}</b> {t.current && <span className="tag serves">in use here</span>} <code className="quiet">{t.token_id}</code></td>
                  <td data-label="Projects">{t.projects?.join(', ') ?? 'all of yours'}</td><td data-label="Last used"><When at={t.last_used_at} now={now} /></td><td data-label="Expires"><When at={t.expires_at} now={now} /></td>
                  <td className="do"><button type="button" className="bad" aria-label={`Revoke ${t.name ?? t.token_id}`} onClick={() => setEnding(t)}>Revoke…</button></td>
                </tr>
              ))}</tbody>
            </table>
          )}
        </Await>
      </Panel>
      <Panel title="In a terminal">
        <div className="panel-body">
          <p>The same account in <code>tare</code>, the command line. It asks for the API key and does not show it.</p>
          <div className="command"><pre tabIndex={0}><code>{login}</code></pre><Copy text={login} /></div>
        </div>
      </Panel>
      {f.add && <NewToken onClose={() => setFilters({ add: '' })} />}
      {ending && <EndToken token={ending} onClose={() => setEnding(undefined)} />}
    </Page>
  );
}

function NewToken({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState('');
  const [days, setDays] = useState('90');
  const [here, setHere] = useState(true);
  const [isMade, setMade] = useState(false);
  const made = useRef(''); // the new API key: in this memory, and never in the page
  const { project_id } = project();
  const body = { name: name.trim(), ...(here && { projects: [project_id] }), expires_at: days ? new Date(Math.floor(Date.now() / 60_000) * 60_000 + Number(days) * 86400e3).toISOString() : null };
  const { run, busy, error } = useAction(async () => {
    const { api_key } = await unwrap(api.POST('/v1/tokens', { body }));
    made.current = api_key;
    setMade(true);
    await queries.invalidateQueries({ queryKey: ['tokens'] });
  });
  return (
    <Dialog title="New API key" onClose={onClose}>
      {isMade ? (
        <>
          <p>It is made. <b>Copy it now:</b> it can’t be shown again.</p>
          <div className="bar"><Copy text={() => made.current} label="Copy the API key" className="primary" /><button type="button" onClick={onClose}>Done</button></div>
          {navigator.clipboard ? <p className="hint">It goes to the clipboard without being shown.</p>
            : <Field label="API key" hint="Over http, browsers let no page write to the clipboard.">{(ids) => <input {...ids} readOnly value={made.current} />}</Field>}
        </>
      ) : (
        <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
          <Field label="Name" hint="Such as laptop or nightly-eval." error={error instanceof Refusal && error.field('name') ? `The name ${error.field('name')}.` : ''}>{(ids) => <input {...ids} data-autofocus value={name} maxLength={128} autoComplete="off" onChange={(e) => setName(e.target.value)} />}</Field>
          <Field label="Expires">{(ids) => <select {...ids} value={days} onChange={(e) => setDays(e.target.value)}><option value="1">in a day</option><option value="30">in 30 days</option><option value="90">in 90 days</option><option value="365">in a year</option><option value="">never</option></select>}</Field>
          <label className="check"><input type="checkbox" checked={here} onChange={(e) => setHere(e.target.checked)} /> Only for {project_id}</label>
          {error !== undefined && <Fault error={error} />}
          <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="submit" className="primary" disabled={busy || !name.trim()}>Make it</button></div>
          <CopyAs commands={[curl(location.origin, 'POST', '/v1/tokens', body), tare(['tokens', 'create', name || 'NAME'], { projects: here ? project_id : undefined, expires: body.expires_at ?? 'never' })]} />
        </form>
      )}
    </Dialog>
  );
}

function EndToken({ token, onClose }: { token: Token; onClose: () => void }) {
  const { run, busy, error } = useAction(async () => {
    await unwrap(api.DELETE('/v1/tokens/{token_id}', { params: { path: { token_id: token.token_id } } }));
    onClose();
    await queries.invalidateQueries({ queryKey: ['tokens'] });
  });
  return (
    <Dialog title={`Revoke ${token.name ?? token.token_id}?`} onClose={onClose}>
      <p>Whatever uses this API key is refused from the next request on, and by gateways within a second. This can’t be undone.{token.current && <b> You are signed in with this API key, and will have to sign in with another.</b>}</p>
      {error !== undefined && <Fault error={error} />}
      <div className="bar end"><button type="button" data-autofocus onClick={onClose}>Keep it</button><button type="button" className="danger" disabled={busy} onClick={() => void run()}>Revoke</button></div>
      <CopyAs commands={[curl(location.origin, 'DELETE', `/v1/tokens/${token.token_id}`), tare(['tokens', 'revoke', token.token_id])]} />
    </Dialog>
  );
}
