import { Suspense, useState } from 'react';
import { api, project, Refusal, unwrap, type Key, type Provider, type Schemas } from '../api/client.ts';
import { forgetKeys, queries, useConnection, useEvents, useFetches, useKey, useKeys, usePolicy, useProviders, useUsage } from '../api/queries.ts';
import { curl, projectPath, tare } from '../logic/commands.ts';
import { impactOf, roleOf } from '../logic/ladder.ts';
import { actorOf, changesOf, deed, healthOf, titleOf, verdictSentence } from '../logic/sentences.ts';
import { exact, toLocalInput } from '../logic/time.ts';
import { Await, Copy, CopyAs, Dialog, Fault, Field, Page, Panel, Tone, useAction, useNow, When } from '../ui/basics.tsx';
import { ReceiptPanel } from '../ui/receipt.tsx';
import { FirstRequest } from './first.tsx';
import { nameOf } from './keys.tsx';
import { later } from './later.ts';
import { RotateDialog } from './rotate.tsx';
import { RevokeDialog } from './revoke.tsx';
import { Link } from '../ui/router.tsx';

/** How soon a key is read again: at once and then each second while a receipt is pending, less often if that takes long. */
function interval(key: Key | undefined): number | false {
  const receipt = key?.receipt ?? key?.disable_receipt;
  if (receipt?.state !== 'pending') return 30_000;
  const at = 'revoked_at' in receipt ? receipt.revoked_at : receipt.disabled_at;
  return Date.now() - Date.parse(at) < 30_000 ? 1_000 : 3_000;
}

const VersionsPanel = later<{ item: Key; display: string; mayWrite: boolean }>((all) => all.VersionsPanel);

const RestrictDialog = later<{ item: Key; onClose: () => void }>((all) => all.RestrictDialog);

export function KeyPage({ id }: { id: string }) {
  const query = useKey(id, interval);
  if (query.error instanceof Refusal && query.error.status === 404) {
    return <Page title="No such key"><p>It does not exist, or it is another member’s own. <Link href="/keys">All keys</Link></p></Page>;
  }
  return <Await query={query}>{(key) => <OneKey item={key} />}</Await>;
}

type Change = { order: number; weight: number | null } | { restrict: Schemas['RestrictionsChange'] } | { name: string } | { disabled: boolean } | { limit: Record<keyof NonNullable<Key['limit']>, number | null> } | { expires_at: string | null };

function OneKey({ item }: { item: Key }) {
  const { who } = useConnection();
  const keys = useKeys();
  const policy = usePolicy();
  const providers = useProviders();
  const now = useNow();
  const [dialog, setDialog] = useState<'' | 'revoke' | 'rename' | 'expiry' | 'disable' | 'order' | 'limits' | 'restrict' | 'rotate'>('');
  const provider = providers.data?.find((p) => p.slug === item.provider);
  const display = nameOf(item.provider, providers.data);
  const mayWrite = item.state !== 'revoked' && (item.user_scope || who?.role === 'owner');
  const all = keys.data ?? [item];
  const { role, label } = roleOf(item, all, policy.data, now);
  const health = healthOf(item, display);
  const path = projectPath(project(), `/aikeys/${item.id}`);
  const verifying = useAction(async () => {
    const { key } = await unwrap(api.POST('/v1/customers/{customer_id}/projects/{project_id}/aikeys/{id}/verify', { params: { path: { ...project(), id: item.id } } }));
    await keep(key);
  });
  const enabling = useAction(() => update(item, { disabled: false }));
  return (
    <>
      <p className="crumb"><Link href="/keys">Keys</Link> / <Link href={`/keys?provider=${item.provider}`}>{display}</Link></p>
      <Page title={<>{item.name} {item.display_suffix && <code className="quiet">…{item.display_suffix}</code>}</>}
        lead={<><span className={`tag ${role}`}>{label}</span>{item.user_scope && <span className="tag">yours</span>} {item.state !== 'revoked' && <Tone tone={health.tone}>{health.text}</Tone>}</>}
        tools={mayWrite && (
          <>
            {!item.disabled && <button type="button" disabled={verifying.busy} onClick={() => void verifying.run()}>{verifying.busy ? 'Testing…' : 'Test'}</button>}
            <button type="button" onClick={() => setDialog('rotate')}>Rotate…</button>
            <button type="button" onClick={() => setDialog('rename')}>Rename…</button>
            <button type="button" onClick={() => setDialog('expiry')}>Expiry…</button>
            <button type="button" onClick={() => setDialog('order')}>Order…</button>
            <button type="button" onClick={() => setDialog('limits')}>Limits…</button>
            <button type="button" onClick={() => setDialog('restrict')}>Restrict…</button>
            {item.disabled ? <button type="button" disabled={enabling.busy} onClick={() => void enabling.run()}>Enable</button>
              : <button type="button" onClick={() => setDialog('disable')}>Disable…</button>}
            <button type="button" className="bad" data-key="r" onClick={() => setDialog('revoke')}>Revoke… <kbd aria-hidden="true">R</kbd></button>
          </>
        )}
        commands={[curl(location.origin, 'GET', path), tare(['byok', 'get', item.id])]}>
        {verifying.error !== undefined && <Fault error={verifying.error} />}
        {enabling.error !== undefined && <Fault error={enabling.error} />}
        {health.remedy && item.state !== 'revoked' && health.tone !== 'ok' && <p className="notice warn">{health.remedy} {provider?.key_page_url && <a href={provider.key_page_url} target="_blank" rel="noreferrer">Open {display} ↗</a>}</p>}
        {item.receipt && <ReceiptPanel receipt={item.receipt} of={{ key_id: item.id }} />}
        {item.receipt && <StillThere provider={provider} display={display} />}
        {!item.receipt && item.disable_receipt && <ReceiptPanel receipt={item.disable_receipt} of={{ key_id: item.id }} />}
        <Panel title="Facts">
          <dl className="facts">
            <dt>Provider</dt><dd>{display}</dd>
            <dt>Serves</dt><dd>{item.user_scope ? 'only your requests' : 'the project’s requests'}{item.serves === false && <span className="quiet"> · not now: {reasonWords(item.not_serving_reason, display)}</span>}</dd>
            <dt>Order</dt><dd>{item.order ?? 0}{item.weight ? `, weight ${item.weight}` : ''}</dd>
            {item.restrict && <><dt>Restricted to</dt><dd>{restrictions(item.restrict).map((r) => <div key={r}>{r}</div>)}</dd></>}
            {item.limit && <><dt>Limits</dt><dd>{limits(item.limit).map((l) => <div key={l}>{l}</div>)}</dd></>}
            <dt>Id</dt><dd><code className="id">{item.id}</code> <Copy text={item.id} className="small" /></dd>
            <dt>Added</dt><dd><When at={item.created_at} now={now} /> by {item.created_by}</dd>
            <dt>Last used</dt><dd><When at={item.last_used_at} now={now} /></dd>
            {item.expires_at && <><dt>Expires</dt><dd><When at={item.expires_at} now={now} /> <span className="quiet">({exact(item.expires_at)})</span></dd></>}
            {item.verification && <><dt>Last test</dt><dd>{verdictSentence(item.verification, display)} <span className="quiet"><When at={item.verification.checked_at} now={now} /></span></dd></>}
            {item.last_failure && <><dt>Last refusal</dt><dd>{item.last_failure.status}{item.last_failure.reason && ` (${item.last_failure.reason.replaceAll('_', ' ')})`}, <When at={item.last_failure.at} now={now} /></dd></>}
            {item.disabled && <><dt>Disabled</dt><dd><When at={item.disabled_at} now={now} /> by {item.disabled_by}</dd></>}
          </dl>
        </Panel>
        <Suspense><VersionsPanel item={item} display={display} mayWrite={mayWrite} /></Suspense>
        <WhoUsesIt item={item} />
        {who?.role === 'owner' && <DataPlanesOf id={item.id} />}
        <History item={item} />
      </Page>
      {dialog === 'revoke' && <RevokeDialog target={item} onClose={() => setDialog('')} />}
      {dialog === 'rename' && <RenameDialog item={item} onClose={() => setDialog('')} />}
      {dialog === 'expiry' && <ExpiryDialog item={item} onClose={() => setDialog('')} />}
      {dialog === 'rotate' && <RotateDialog item={item} provider={provider} onClose={() => setDialog('')} />}
      {dialog === 'order' && <OrderDialog item={item} onClose={() => setDialog('')} />}
      {dialog === 'limits' && <LimitsDialog item={item} onClose={() => setDialog('')} />}
      {dialog === 'restrict' && <Suspense><RestrictDialog item={item} onClose={() => setDialog('')} /></Suspense>}
      {dialog === 'disable' && <DisableDialog item={item} all={all} onClose={() => setDialog('')} />}
    </>
  );
}

function reasonWords(reason: string | undefined, provider: string): string {
  switch (reason) {
    case 'user_keys_forbidden': return 'the policy forbids members’ own keys';
    case 'user_key_required': return 'the policy requires members’ own keys';
    case 'rejected': return `${provider} rejects it`;
    default: return reason?.replaceAll('_', ' ') ?? 'unknown';
  }
}

/** What a key may be used for, a line for each list. */
const restrictions = ({ models, users, operations }: NonNullable<Key['restrict']>) =>
  [models && `models: ${models.join(', ')}`, users && `users: ${users.join(', ')}`, operations && `operations: ${operations.join(', ')}`].filter((r) => r !== undefined);

/** How many requests a key serves, a line for each limit. */
const limits = ({ requests_per_minute: minute, requests_per_day: day, concurrent }: NonNullable<Key['limit']>) =>
  [minute && `${minute} requests a minute`, day && `${day} requests a day`, concurrent && `${concurrent} requests at once`].filter((l) => l !== undefined);

async function keep(key: Key) {
  queries.setQueryData<Key>(['key', key.id], key);
  await forgetKeys();
}

/** Changes the key as it is on screen; if it has been changed since, nothing happens and the page shows the new state. */
export async function update(item: Key, body: Change) {
  try {
    const { key } = await unwrap(api.PATCH('/v1/customers/{customer_id}/projects/{project_id}/aikeys/{id}', {
      params: { path: { ...project(), id: item.id }, header: 'disabled' in body ? {} : { 'If-Match': item.etag } }, body,
    }));
    await keep(key);
  } catch (error) {
    if (error instanceof Refusal && error.status === 412) await queries.invalidateQueries({ queryKey: ['key', item.id] });
    throw error;
  }
}

export function Changed({ error }: { error: unknown }) {
  if (error instanceof Refusal && error.status === 412) {
    return <div className="fault" role="alert"><p><b>Someone else has changed this key in the meantime.</b> Nothing was saved. The current state is shown: check it, and save again if you still want to.</p></div>;
  }
  return error === undefined ? null : <Fault error={error} />;
}

function RenameDialog({ item, onClose }: { item: Key; onClose: () => void }) {
  const [name, setName] = useState(item.name);
  const { run, busy, error } = useAction(async () => {
    await update(item, { name: name.trim() });
    onClose();
  });
  return (
    <Dialog title={`Rename ${item.name}`} onClose={onClose}>
      <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
        <Field label="Name" error={error instanceof Refusal && error.field('name') ? `The name ${error.field('name')}.` : ''} hint="All members see it.">
          {(ids) => <input {...ids} data-autofocus value={name} maxLength={128} autoComplete="off" onChange={(e) => setName(e.target.value)} />}
        </Field>
        <Changed error={error} />
        <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="submit" className="primary" disabled={busy || !name.trim() || name.trim() === item.name}>Rename</button></div>
      </form>
      <CopyAs commands={[curl(location.origin, 'PATCH', projectPath(project(), `/aikeys/${item.id}`), { name }), tare(['byok', 'update', item.id], { name })]} />
    </Dialog>
  );
}

function ExpiryDialog({ item, onClose }: { item: Key; onClose: () => void }) {
  const [at, setAt] = useState(item.expires_at ? toLocalInput(new Date(item.expires_at)) : '');
  const [fault, setFault] = useState('');
  const { run, busy, error } = useAction(async () => {
    if (at && Date.parse(at) <= Date.now()) { setFault('Choose a time in the future.'); return; }
    await update(item, { expires_at: at ? new Date(at).toISOString() : null });
    onClose();
  });
  const days = (n: number) => setAt(toLocalInput(new Date(Date.now() + n * 86_400_000)));
  return (
    <Dialog title={`When ${item.name} stops serving`} onClose={onClose}>
      <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
        <Field label="Stops serving at" error={fault || (error instanceof Refusal && error.field('expires_at') ? `The time ${error.field('expires_at')}.` : '')} hint="The audit trail warns 30, 7 and 1 days ahead. Empty is never.">
          {(ids) => <input {...ids} data-autofocus type="datetime-local" value={at} onChange={(e) => { setAt(e.target.value); setFault(''); }} />}
        </Field>
        <div className="bar"><button type="button" onClick={() => days(30)}>30 days</button><button type="button" onClick={() => days(90)}>90 days</button><button type="button" onClick={() => days(365)}>1 year</button><button type="button" onClick={() => setAt('')}>Never</button></div>
        <Changed error={error} />
        <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="submit" className="primary" disabled={busy}>Save</button></div>
      </form>
      <CopyAs commands={[curl(location.origin, 'PATCH', projectPath(project(), `/aikeys/${item.id}`), { expires_at: at ? new Date(at).toISOString() : null }), tare(['byok', 'update', item.id], { expires: at ? new Date(at).toISOString() : 'never' })]} />
    </Dialog>
  );
}

function OrderDialog({ item, onClose }: { item: Key; onClose: () => void }) {
  const [order, setOrder] = useState(String(item.order ?? 0));
  const [weight, setWeight] = useState(String(item.weight ?? ''));
  const { run, busy, error } = useAction(async () => {
    await update(item, { order: Number(order) || 0, weight: Number(weight) || null });
    onClose();
  });
  return (
    <Dialog title={`Order of ${item.name}`} onClose={onClose}>
      <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
        <div className="pair">
          <Field label="Order" hint="The lowest serves, and of the same order the newest. 1 or more makes it a reserve.">
            {(ids) => <input {...ids} data-autofocus type="number" min={-1000} max={1000} step={1} value={order} onChange={(e) => setOrder(e.target.value)} />}
          </Field>
          <Field label="Weight" hint="Its share of the callers, among keys of its order that have one. Empty shares with none.">
            {(ids) => <input {...ids} type="number" min={1} max={1000} step={1} value={weight} onChange={(e) => setWeight(e.target.value)} />}
          </Field>
        </div>
        <Changed error={error} />
        <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="submit" className="primary" disabled={busy}>Save</button></div>
      </form>
      <CopyAs commands={[curl(location.origin, 'PATCH', projectPath(project(), `/aikeys/${item.id}`), { order: Number(order) || 0, weight: Number(weight) || null }), tare(['byok', 'update', item.id], { order, weight: weight || '0' })]} />
    </Dialog>
  );
}

function LimitsDialog({ item, onClose }: { item: Key; onClose: () => void }) {
  const [minute, setMinute] = useState(String(item.limit?.requests_per_minute ?? ''));
  const [day, setDay] = useState(String(item.limit?.requests_per_day ?? ''));
  const [concurrent, setConcurrent] = useState(String(item.limit?.concurrent ?? ''));
  const limit = { requests_per_minute: Number(minute) || null, requests_per_day: Number(day) || null, concurrent: Number(concurrent) || null };
  const { run, busy, error } = useAction(async () => {
    await update(item, { limit });
    onClose();
  });
  const field = (label: string, value: string, set: (v: string) => void) => (
    <Field label={label}>
      {(ids) => <input {...ids} type="number" min={1} step={1} value={value} onChange={(e) => set(e.target.value)} />}
    </Field>
  );
  return (
    <Dialog title={`Limits of ${item.name}`} onClose={onClose}>
      <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
        <div className="pair">
          {field('Requests a minute', minute, setMinute)}
          {field('Requests a day', day, setDay)}
        </div>
        {field('Requests at once', concurrent, setConcurrent)}
        <Changed error={error} />
        <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="submit" className="primary" disabled={busy}>Save</button></div>
      </form>
      <CopyAs commands={[curl(location.origin, 'PATCH', projectPath(project(), `/aikeys/${item.id}`), { limit }), tare(['byok', 'update', item.id], { 'limit-rpm': minute || '0', 'limit-rpd': day || '0', 'limit-concurrent': concurrent || '0' })]} />
    </Dialog>
  );
}

function DisableDialog({ item, all, onClose }: { item: Key; all: Key[]; onClose: () => void }) {
  const policy = usePolicy();
  const now = useNow(1_000);
  const impact = impactOf(item, all, policy.data, now);
  const { run, busy, error } = useAction(async () => {
    await update(item, { disabled: true });
    onClose();
  });
  return (
    <Dialog title={<>Disable {titleOf(item)}?</>} onClose={onClose}>
      <ul className="impact">
        <li>Data planes drop it within a second, as with a revocation, and you get a receipt. Last used: <b><When at={item.last_used_at} now={now} /></b>.</li>
        <li className={impact.wasServing && !impact.next ? 'bad' : undefined}>{impact.sentence}</li>
        <li>You can enable it again at any time.</li>
      </ul>
      <Changed error={error} />
      <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="button" className="primary" data-autofocus disabled={busy} onClick={() => void run()}>{busy ? 'Disabling…' : 'Disable'}</button></div>
      <CopyAs commands={[curl(location.origin, 'PATCH', projectPath(project(), `/aikeys/${item.id}?wait=5s`), { disabled: true }), tare(['byok', 'disable', item.id])]} />
    </Dialog>
  );
}

function StillThere({ provider, display }: { provider: Provider | undefined; display: string }) {
  return <p className="notice warn">{display} itself still accepts this key until you delete it there. {provider?.key_page_url && <a href={provider.key_page_url} target="_blank" rel="noreferrer">Open {new URL(provider.key_page_url).host} ↗</a>}</p>;
}

function WhoUsesIt({ item }: { item: Key }) {
  const usage = useUsage({ key_id: item.id });
  const now = useNow();
  return (
    <Panel title="Who uses it" note="last 90 days" tools={<Link className="quiet-link" href={`/usage?key=${item.id}`}>All usage</Link>}>
      <Await query={usage} rows={2}>
        {({ entries }) => {
          const users = [...Map.groupBy(entries, (e) => e.user_id ?? '')].map(([user, list]) => ({
            user, requests: sum(list.map((e) => e.requests)), refusals: sum(list.map((e) => e.refusals)),
            last: list.map((e) => e.last_used_at).sort().at(-1),
          })).sort((a, b) => b.requests - a.requests);
          return users.length === 0 ? <><p className="panel-body quiet">No request has been served with it. Data planes report every 10 seconds.</p>{item.serves && <FirstRequest provider={item.provider} />}</> : (
            <table><thead><tr><th scope="col">User</th><th scope="col" className="number">Requests</th><th scope="col" className="number">Refused</th><th scope="col">Last</th></tr></thead>
              <tbody>{users.map((u) => <tr key={u.user}><td>{u.user || <span className="quiet">no particular user</span>}</td><td className="number">{u.requests.toLocaleString()}</td><td className="number">{u.refusals.toLocaleString()}</td><td><When at={u.last} now={now} /></td></tr>)}</tbody></table>
          );
        }}
      </Await>
    </Panel>
  );
}

export const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);

function DataPlanesOf({ id }: { id: string }) {
  const fetches = useFetches({ key_id: id }, true, 200);
  const now = useNow();
  return (
    <Panel title="Which data planes fetched it" note="newest 200 records">
      <Await query={fetches} rows={2}>
        {({ pages }) => {
          const all = pages.flatMap((p) => p.fetches);
          const planes = [...Map.groupBy(all, (f) => (f.data_plane_id === 'control_plane' ? 'the service itself' : f.data_plane ?? f.data_plane_id))];
          return planes.length === 0 ? <p className="panel-body quiet">No data plane has fetched it.</p> : (
            <table><thead><tr><th scope="col">Data plane</th><th scope="col" className="number">Fetched</th><th scope="col" className="number">Refused</th><th scope="col">Last</th></tr></thead>
              <tbody>{planes.map(([name, list]) => <tr key={name}><td>{name}</td><td className="number">{list.filter((f) => f.decision === 'allowed').length}</td><td className="number">{list.filter((f) => f.decision === 'denied').length}</td><td><When at={list[0]?.at} now={now} /></td></tr>)}</tbody></table>
          );
        }}
      </Await>
    </Panel>
  );
}

function History({ item }: { item: Key }) {
  const events = useEvents({ key_id: item.id });
  const now = useNow();
  const known = new Map([[item.id, item]]);
  return (
    <Panel title="History" tools={<Link className="quiet-link" href={`/audit?key=${item.id}`}>In the audit trail</Link>}>
      <Await query={events} rows={3}>
        {({ pages }) => (
          <ol className="timeline">
            {pages.flatMap((p) => p.events).map((e) => (
              <li key={e.id}><span className="quiet"><When at={e.at} now={now} /></span><b>{actorOf(e)}</b><span>{deed(e, known)}{e.outcome === 'denied' && <> · <Tone tone="bad">denied</Tone></>}{changesOf(e).map((c) => <span key={c} className="quiet"> · {c}</span>)}</span></li>
            ))}
          </ol>
        )}
      </Await>
    </Panel>
  );
}
