import { useState } from 'react';
import { api, project, unwrap, type Key } from '../api/client.ts';
import { forgetKeys, queries, useKeys, usePolicy, useProviders } from '../api/queries.ts';
import { curl, projectPath, tare } from '../logic/commands.ts';
import { impactOf } from '../logic/ladder.ts';
import { titleOf } from '../logic/sentences.ts';
import { CopyAs, Dialog, Fault, Field, useAction, useNow, When } from '../ui/basics.tsx';
import { nameOf } from './keys.tsx';
import { Link, go } from '../ui/router.tsx';

/** Says what a revocation does before it is done, and asks for the end of the key. */
export function RevokeDialog({ target, onClose }: { target: Key; onClose: () => void }) {
  const keys = useKeys();
  const policy = usePolicy();
  const providers = useProviders();
  const now = useNow(1_000);
  const [typed, setTyped] = useState('');
  const word = target.display_suffix || target.name;
  const impact = impactOf(target, keys.data ?? [target], policy.data, now);
  const { run, busy, error } = useAction(async () => {
    const { receipt } = await unwrap(api.DELETE('/v1/customers/{customer_id}/projects/{project_id}/aikeys/{id}', { params: { path: { ...project(), id: target.id } } }));
    queries.setQueryData<Key>(['key', target.id], { ...target, state: 'revoked', revoked_at: receipt.revoked_at, revoked_by: receipt.revoked_by, receipt });
    onClose();
    go(`/keys/${target.id}`);
    await forgetKeys();
  });
  const path = projectPath(project(), `/aikeys/${target.id}`);
  return (
    <Dialog title={<>Revoke {titleOf(target)}?</>} onClose={onClose}>
      <ul className="impact">
        <li>Last used: <b><When at={target.last_used_at} now={now} /></b>. Requests that it is serving end at once, including streams.</li>
        <li className={impact.wasServing && !impact.next ? 'bad' : undefined}>{impact.sentence}</li>
        <li>This can’t be undone. To stop it for now, disable it on <Link href={`/keys/${target.id}`} onClick={onClose}>its page</Link>.</li>
        <li>{nameOf(target.provider, providers.data)} itself still accepts it until you delete it there.</li>
      </ul>
      <form onSubmit={(e) => { e.preventDefault(); if (typed === word) void run(); }}>
        <Field label={<>Type <code>{word}</code> to confirm</>}>
          {(ids) => <input {...ids} data-autofocus value={typed} autoComplete="off" spellCheck={false} onChange={(e) => setTyped(e.target.value)} />}
        </Field>
        {error !== undefined && <Fault error={error} />}
        <div className="bar end">
          <button type="button" onClick={onClose}>Keep it</button>
          <button type="submit" className="danger" disabled={typed !== word || busy}>{busy ? 'Revoking…' : 'Revoke'}</button>
        </div>
      </form>
      <CopyAs commands={[curl(location.origin, 'DELETE', `${path}?wait=5s`), tare(['byok', 'remove', target.id])]} />
    </Dialog>
  );
}
