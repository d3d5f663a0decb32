import { project, type ResolveReply, type Schemas } from '../api/client.ts';
import { useConnection, useKeys, useMembers, useProviders, useResolve } from '../api/queries.ts';
import { curl, projectPath, query, tare } from '../logic/commands.ts';
import { titleOf } from '../logic/sentences.ts';
import { Await, Empty, Page, Panel, Tone, useNow, When } from '../ui/basics.tsx';
import { Link, useFilters } from '../ui/router.tsx';
import { nameOf } from './keys.tsx';

export function ResolvePage() {
  const { who } = useConnection();
  const [f, setFilters] = useFilters(['provider', 'user']);
  const providers = useProviders();
  const members = useMembers();
  const keys = useKeys();
  const used = [...new Set((keys.data ?? []).filter((k) => k.state !== 'revoked').map((k) => k.provider))];
  const provider = f.provider || used[0] || (keys.data ? 'openai' : '');
  const other = f.user && f.user !== who?.user_id ? f.user : undefined;
  const reply = useResolve(provider, other);
  return (
    <Page title="Resolve" lead="Which key serves a request now, and why not the others."
      commands={provider ? [curl(location.origin, 'GET', projectPath(project(), `/resolve${query({ provider, explain: 'true', user_id: other })}`)), { label: 'tare', text: `${tare(['byok', 'resolve'], { provider, user: other }).text} --explain` }] : []}>
      <div className="bar filters">
        <select aria-label="Provider" value={provider} onChange={(e) => setFilters({ provider: e.target.value })}>
          {providers.data?.map((p) => <option key={p.slug} value={p.slug}>{p.display_name}</option>)}
        </select>
        {who?.role === 'owner' && (
          <select aria-label="Whose request" value={other ?? ''} onChange={(e) => setFilters({ user: e.target.value })}>
            <option value="">My requests</option>
            {members.data?.filter((m) => m.user_id !== who.user_id).map((m) => <option key={m.user_id} value={m.user_id}>Requests of {m.user_id}</option>)}
          </select>
        )}
      </div>
      <Await query={reply} rows={5}>{(answer) => <Ladder answer={answer} whose={other} display={nameOf(provider, providers.data)} />}</Await>
    </Page>
  );
}

const because: Record<string, string> = {
  user_key: 'it is the newest own key', project_key: 'there is no own key, and this is the project’s newest', user_keys_forbidden: 'the policy forbids members’ own keys',
  order: 'its order is the lowest', weight: 'the keys of this order share the callers, and this one has this caller', next_key: 'the provider has refused the key before it in the last five minutes',
  next_key_limited: 'the key before it is at a limit',
};

const passed: Record<string, string> = {
  not_first: 'another key comes before it', other_callers: 'it serves other callers', refused_by_provider: 'the provider refused it in the last five minutes', limited: 'at a limit',
  key_disabled: 'disabled', key_expired: 'expired', user_keys_forbidden: 'the policy forbids members’ own keys', user_key_required: 'the policy requires a key of the member’s own',
};

function Ladder({ answer, whose, display }: { answer: ResolveReply; whose: string | undefined; display: string }) {
  const now = useNow();
  const owner = whose ?? 'you';
  const title = (key: Schemas['Key'] | undefined) => (key ? titleOf(key) : `an own key of ${owner}`);
  const serves = answer.scope !== undefined;
  return (
    <>
      <p className="answer" role="status">
        {serves ? <Tone tone={answer.serves === false ? 'bad' : 'ok'}><b>{answer.key ? <Link href={`/keys/${answer.key.id}`}>{title(answer.key)}</Link> : title(undefined)}</b></Tone> : <Tone tone="bad"><b>No key</b></Tone>}
        {' '}serves {whose ? `the requests of ${whose}` : 'your requests'} to {display}{serves && because[answer.reason] ? `: ${because[answer.reason]}.` : '.'}
        {answer.serves === false && answer.key && ' The provider rejects it.'}
      </p>
      {!serves && <Mend answer={answer} whose={whose} display={display} now={now} />}
      <Panel title="In the order in which they come" note={<>own keys: <b>{answer.user_keys}</b> · on a bad key: <b>{answer.on_bad_key.replace('_', ' ')}</b> · at a limit: <b>{(answer.on_limited ?? 'fail').replace('_', ' ')}</b></>} tools={<Link className="quiet-link" href="/policy">Policy</Link>}>
        {answer.candidates && answer.candidates.length > 0 ? (
          <ol className="ladder">
            {answer.candidates.map((c, i) => (
              <li key={c.key?.id ?? i} data-serves={c.serves}>
                <span className="step" aria-hidden="true">{i + 1}</span>
                <span>{c.key ? <Link href={`/keys/${c.key.id}`} data-row>{title(c.key)}</Link> : title(undefined)} <span className="tag">{c.scope === 'user' ? (whose ? `${whose}’s own` : 'yours') : 'the project’s'}</span>{c.key?.weight ? <span className="tag">weight {c.key.weight}</span> : null}</span>
                {c.serves ? <Tone tone="ok">serves</Tone> : <span className="quiet">passed over: {passed[c.reason] ?? c.reason.replaceAll('_', ' ')}</span>}
              </li>
            ))}
          </ol>
        ) : <Empty title="There is no active key." />}
      </Panel>
    </>
  );
}

/** What is missing, and the way to mend it. */
function Mend({ answer, whose, display, now }: { answer: ResolveReply; whose: string | undefined; display: string; now: number }) {
  const add = <Link href="/keys?add=key">Add a key</Link>;
  switch (answer.reason) {
    case 'user_key_required': return <p className="notice warn">The policy requires a key of {whose ? `${whose}’s` : 'your'} own for {display}. {whose ? 'Only they can add it.' : add} <Link href="/policy">Policy</Link></p>;
    case 'key_revoked': return <p className="notice warn">The last key, {answer.revoked_key ? titleOf(answer.revoked_key) : 'one that you may not see'}, was revoked <When at={answer.revoked_key?.revoked_at} now={now} /> by {answer.revoked_key?.revoked_by}. {add}</p>;
    case 'key_disabled': case 'key_expired':
      return <p className="notice warn">The last key {answer.reason === 'key_disabled' ? 'was disabled' : 'has expired'}. {answer.stopped_key && <Link href={`/keys/${answer.stopped_key.id}`}>{titleOf(answer.stopped_key)}</Link>}</p>;
    case 'not_a_member': return <p className="notice warn">{whose} is not a member of this project. <Link href="/members">Members</Link></p>;
    default: return <p className="notice warn">There is no key for {display} that the policy allows. {add}</p>;
  }
}
