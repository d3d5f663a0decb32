import { useMemo, useState } from 'react';
import { api, project, Refusal, unwrap, type Member, type Role, type Schemas } from '../api/client.ts';
import { queries, useConnection, useImpact, useKeys, useMembers, usePolicy, useUsage } from '../api/queries.ts';
import { curl, projectPath, tare } from '../logic/commands.ts';
import { graceOf } from '../logic/policy.ts';
import { titleOf } from '../logic/sentences.ts';
import { Await, CopyAs, Dialog, Fault, Field, Page, Panel, useAction, useNow, When } from '../ui/basics.tsx';
import { ReceiptPanel } from '../ui/receipt.tsx';
import { Link, useFilters } from '../ui/router.tsx';

export function MembersPage() {
  const { who } = useConnection();
  const isOwner = who?.role === 'owner';
  const members = useMembers();
  const usage = useUsage({}, isOwner);
  const now = useNow();
  const [f, setFilters] = useFilters(['add', 'remove']);
  const lastUse = useMemo(() => {
    const last = new Map<string, string>();
    for (const u of usage.data?.entries ?? []) if (u.user_id && u.last_used_at > (last.get(u.user_id) ?? '')) last.set(u.user_id, u.last_used_at);
    return last;
  }, [usage.data]);
  const owners = members.data?.filter((m) => m.role === 'owner').length ?? 0;
  const setting = useAction((user: string, role: Role) => setRole(user, role));
  const [removed, setRemoved] = useState<Removal>();
  const restoring = useAction(async () => {
    if (!removed) return;
    await unwrap(api.POST('/v1/customers/{customer_id}/projects/{project_id}/members/{user_id}/restore', { params: { path: { ...project(), user_id: removed.user } } }));
    setRemoved(undefined);
    await queries.invalidateQueries();
  });
  const leaving = members.data?.find((m) => m.user_id === f.remove);
  return (
    <Page title="Members" lead="Who may use the project’s keys, and who may change them."
      tools={isOwner && <button type="button" className="primary" data-key="a" onClick={() => setFilters({ add: 'member' })}>Add member <kbd aria-hidden="true">A</kbd></button>}
      commands={[curl(location.origin, 'GET', projectPath(project(), '/members')), tare(['members', 'list'])]}>
      {setting.error !== undefined && <LastOwner error={setting.error} />}
      {removed && <p className="notice" role="status">{removed.user} is no longer a member. <button type="button" className="link" disabled={restoring.busy} onClick={() => void restoring.run()}>Undo</button></p>}
      {removed?.receipt && <ReceiptPanel receipt={removed.receipt} of={{ user_id: removed.user }} />}
      {restoring.error !== undefined && <Fault error={restoring.error} />}
      <Panel>
        <Await query={members}>
          {(all) => (
            <table className="stack">
              <thead><tr><th scope="col">User</th><th scope="col">Role</th><th scope="col">Joined</th>{isOwner && <><th scope="col">Last request</th><th scope="col"><span className="unseen">Actions</span></th></>}</tr></thead>
              <tbody>
                {all.map((m) => (
                  <tr key={m.user_id}>
                    <td><b>{m.user_id}</b>{m.user_id === who?.user_id && <> <span className="tag">you</span></>}</td>
                    <td>{isOwner
                      ? <select aria-label={`Role of ${m.user_id}`} value={m.role} disabled={setting.busy || m.role === 'owner' && owners === 1} onChange={(e) => void setting.run(m.user_id, e.target.value as Role)}><option>owner</option><option>member</option></select>
                      : m.role}</td>
                    <td data-label="Joined"><When at={m.created_at} now={now} /></td>
                    {isOwner && <>
                      <td data-label="Last request"><When at={lastUse.get(m.user_id)} now={now} /></td>
                      <td className="do">{m.role === 'owner' && owners === 1 ? <span className="quiet">the last owner</span> : <button type="button" className="bad" aria-label={`Remove ${m.user_id}`} onClick={() => setFilters({ remove: m.user_id })}>Remove…</button>}</td>
                    </>}
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Await>
      </Panel>
      {f.add && <AddMember onClose={() => setFilters({ add: '' })} />}
      {leaving && isOwner && <RemoveMember member={leaving} onRemoved={setRemoved} onClose={() => setFilters({ remove: '' })} />}
    </Page>
  );
}

async function setRole(user_id: string, role: Role) {
  await unwrap(api.PUT('/v1/customers/{customer_id}/projects/{project_id}/members/{user_id}', { params: { path: { ...project(), user_id } }, body: { role } }));
  await Promise.all([queries.invalidateQueries({ queryKey: ['members'] }), queries.invalidateQueries({ queryKey: ['events'] })]);
}

function LastOwner({ error }: { error: unknown }) {
  if (error instanceof Refusal && error.status === 409) return <div className="fault" role="alert"><p><b>A project must have an owner.</b> Make another member an owner first.</p></div>;
  return <Fault error={error} />;
}

function AddMember({ onClose }: { onClose: () => void }) {
  const [user, setUser] = useState('');
  const [role, setNewRole] = useState<Role>('member');
  const { run, busy, error } = useAction(async () => {
    await setRole(user.trim(), role);
    onClose();
  });
  return (
    <Dialog title="Add member" onClose={onClose}>
      <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
        <Field label="User id" error={error instanceof Refusal && error.field('user_id') ? `The user id ${error.field('user_id')}.` : ''} hint="As your issuer or the operator names the user. They need not have been here before.">
          {(ids) => <input {...ids} data-autofocus value={user} maxLength={64} autoComplete="off" autoCapitalize="none" spellCheck={false} onChange={(e) => setUser(e.target.value)} />}
        </Field>
        <fieldset>
          <legend>Role</legend>
          <label className="check"><input type="radio" name="role" checked={role === 'member'} onChange={() => setNewRole('member')} /><span>member <span className="quiet">uses the project’s keys, adds their own</span></span></label>
          <label className="check"><input type="radio" name="role" checked={role === 'owner'} onChange={() => setNewRole('owner')} /><span>owner <span className="quiet">also changes the project’s keys, the policy and the members</span></span></label>
        </fieldset>
        {error !== undefined && <Fault error={error} />}
        <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="submit" className="primary" disabled={busy || !user.trim()}>Add</button></div>
      </form>
      <CopyAs commands={[curl(location.origin, 'PUT', projectPath(project(), `/members/${user || 'USER'}`), { role }), tare(['members', 'set', user || 'USER'], { role })]} />
    </Dialog>
  );
}

/** A member who was removed here, and the receipt. */
interface Removal { user: string; receipt?: Schemas['Receipt'] }

/** What a removal stops and what it leaves, before it is done. */
function RemoveMember({ member, onRemoved, onClose }: { member: Member; onRemoved: (removal: Removal) => void; onClose: () => void }) {
  const user = member.user_id;
  const keys = useKeys();
  const usage = useUsage({ user_id: user });
  const policy = usePolicy();
  const impact = useImpact(user);
  const now = useNow();
  const last = (usage.data?.entries ?? []).map((u) => u.last_used_at).sort().at(-1);
  const { run, busy, error } = useAction(async () => {
    // Nearly always, the receipt is complete within this time.
    const { receipt } = await unwrap(api.DELETE('/v1/customers/{customer_id}/projects/{project_id}/members/{user_id}', { params: { path: { ...project(), user_id: user }, query: { wait: '2s' } } }));
    onRemoved({ user, receipt });
    onClose();
    // This dialog may still be there. Who is no member any more has no impact to be read: 404.
    await queries.invalidateQueries({ predicate: (q) => q.queryKey[0] !== 'impact' });
  });
  const grace = policy.data && graceOf(policy.data);
  const titled = (id: string) => keys.data?.find((k) => k.id === id);
  return (
    <Dialog title={`Remove ${user}?`} onClose={onClose} wide>
      <Await query={impact} rows={3}>
        {({ stops, stays, at_providers }) => {
          const brought = at_providers.flatMap((p) => p.replace_keys);
          return (
            <>
              <h3>Stops at once</h3>
              <ul className="impact">
                <li>{user} may no longer act in this project: {counted(stops.tokens, 'API key')} of {user} {stops.tokens === 1 ? 'is' : 'are'} barred from it. Their last request was: <b><When at={last} now={now} /></b>.</li>
                <li>{stops.own_keys === 0 ? `${user} has no keys of their own here.` : `${counted(stops.own_keys, 'key')} of ${user}’s own serve${stops.own_keys === 1 ? 's' : ''} nobody any more. Adding ${user} again does not bring ${stops.own_keys === 1 ? 'it' : 'them'} back.`}</li>
                {grace !== undefined && <li>{grace === 0 ? 'You can’t undo the removal.' : `You can undo the removal for ${counted(grace, 'day')}.`}{stops.own_keys > 0 && ` ${grace === 0 ? '' : 'After that, '}${user}’s own keys are destroyed.`}</li>}
              </ul>
              <h3>Stays as it is</h3>
              <ul className="impact">
                {stays.project_keys > 0
                  ? <li><b>{counted(brought.length, 'project key')}</b> that {user} registered keep{brought.length === 1 ? 's' : ''} serving: {brought.map((id, i) => { const key = titled(id); return <span key={id}>{i > 0 && ', '}<Link href={`/keys/${id}`}>{key ? titleOf(key) : id}</Link></span>; })}. {user} may still know {brought.length === 1 ? 'this secret' : 'these secrets'}: replace {brought.length === 1 ? 'it' : 'them'} at the provider.</li>
                  : <li>{user} has registered no project key that is active.</li>}
              </ul>
            </>
          );
        }}
      </Await>
      {error !== undefined && <LastOwner error={error} />}
      <div className="bar end"><button type="button" data-autofocus onClick={onClose}>Cancel</button><button type="button" className="danger" disabled={busy} onClick={() => void run()}>{busy ? 'Removing…' : `Remove ${user}`}</button></div>
      <CopyAs commands={[curl(location.origin, 'DELETE', projectPath(project(), `/members/${user}`)), tare(['members', 'remove', user])]} />
      <p className="hint">To undo it later: <code>tare api members restore {user}</code></p>
    </Dialog>
  );
}

const counted = (n: number, what: string) => `${n} ${what}${n === 1 ? '' : 's'}`;
