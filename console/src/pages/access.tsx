import { project, signOut } from '../api/client.ts';
import { queries, useConnection } from '../api/queries.ts';
import { curl } from '../logic/commands.ts';
import { exact } from '../logic/time.ts';
import { Copy, Page, Panel, useNow, When } from '../ui/basics.tsx';

const methods: Record<string, string> = { api_key: 'an API key', oidc: 'a session token of the OpenID Connect issuer' };

export function AccessPage() {
  const { who } = useConnection();
  const now = useNow();
  if (!who) return null;
  const { customer_id, project_id } = project();
  const login = `tare login --base-url ${location.origin}`;
  return (
    <Page title="My access" commands={[curl(location.origin, 'GET', '/v1/whoami'), { label: 'tare', text: 'tare whoami' }]}>
      <Panel title="This session">
        <dl className="facts">
          <dt>You are</dt><dd><b>{who.user_id}</b></dd>
          <dt>Project</dt><dd>{customer_id} / {project_id}</dd>
          <dt>Role</dt><dd>{who.role === 'owner' ? 'owner: you may change the project’s keys, policy and members' : who.role === 'member' ? 'member: you may add keys of your own and read the rest' : 'none: ask an owner of the project to add you'}</dd>
          <dt>Signed in with</dt><dd>{methods[who.method] ?? who.method}{who.token_id && <> <code>{who.token_id}</code></>}</dd>
          <dt>Ends</dt><dd>{who.expires_at ? <><When at={who.expires_at} now={now} /> ({exact(who.expires_at)})</> : 'when it is revoked'}</dd>
        </dl>
        <div className="bar panel-foot"><button type="button" onClick={() => { queries.clear(); signOut(); }}>Sign out of this tab</button></div>
      </Panel>
      <Panel title="In a terminal">
        <div className="panel-body">
          <p>The same account in <code>tare</code>, the command line. It asks for the API key and does not show it.</p>
          <div className="command"><pre tabIndex={0}><code>{login}</code></pre><Copy text={login} /></div>
        </div>
      </Panel>
    </Page>
  );
}
