import { useRef, useState } from 'react';
import { api, project, Refusal, unwrap, type Key, type Provider, type Schemas } from '../api/client.ts';
import { forgetKeys, queries } from '../api/queries.ts';
import { tare } from '../logic/commands.ts';
import { endingOf, refuseSecret } from '../logic/detect.ts';
import { rotationSentence, titleOf } from '../logic/sentences.ts';
import { CopyAs, Dialog, Duplicates, Fault, Field, Tone, useAction } from '../ui/basics.tsx';

/** Gives a key another secret. No request fails because of it. */
export function RotateDialog({ item, provider, onClose }: { item: Key; provider: Provider | undefined; onClose: () => void }) {
  const input = useRef<HTMLInputElement & HTMLTextAreaElement>(null);
  const held = useRef(''); // the secret from when it is first sent until it is stored, or the dialog closes
  const [ending, setEnding] = useState<string>();
  const [test, setTest] = useState(true);
  const [overlap, setOverlap] = useState('15m');
  const [fault, setFault] = useState('');
  const [done, setDone] = useState<Schemas['RotateResponse']>();
  const isDocument = provider?.secret_format === 'json';
  const display = provider?.display_name ?? item.provider;
  const { run, busy, error, clear } = useAction(async () => {
    const secret = held.current || (input.current?.value.trim() ?? '');
    const refusal = secret === '' ? 'Paste the new secret.' : isDocument ? '' : refuseSecret(secret);
    setFault(refusal);
    if (refusal) return;
    if (input.current) input.current.value = '';
    held.current = secret;
    setEnding(isDocument ? '' : endingOf(secret));
    try {
      const reply = await unwrap(api.POST('/v1/customers/{customer_id}/projects/{project_id}/aikeys/{id}/rotate', {
        params: { path: { ...project(), id: item.id }, header: { 'If-Match': item.etag }, query: { wait: '2s' } }, body: { secret, activate: test ? 'verified' : 'now', overlap },
      }));
      held.current = '';
      setDone(reply);
      queries.setQueryData<Key>(['key', item.id], reply.key);
      await forgetKeys();
    } catch (failure) {
      if (failure instanceof Refusal && failure.status !== 422 && failure.field('secret')) enterAnother();
      throw failure;
    }
  });
  function enterAnother() {
    held.current = '';
    setEnding(undefined);
  }
  if (done) {
    const waits = done.version.state === 'pending';
    return (
      <Dialog title={waits ? 'The new secret waits' : 'The new secret serves'} onClose={onClose}>
        {waits ? <p><Tone tone="warn">It is stored as version {done.version.version}, and the old one still serves: the new one could not be tested at {display}. If you are sure of it, activate it on the key’s page.</Tone></p>
          : <p><Tone tone="ok">Version {done.version.version} of {item.name} is active.</Tone> {overlap === '0s' ? 'The old secret is destroyed here.' : `The old secret stays for ${overlap}, in case ${display} refuses the new one.`} {done.receipt && rotationSentence(done.receipt, display, overlap !== '0s')}</p>}
        <Duplicates warnings={done.warnings ?? []} />
        <div className="bar end"><button type="button" className="primary" onClick={onClose}>Done</button></div>
        <CopyAs commands={[waits ? tare(['byok', 'activate', item.id, String(done.version.version)]) : tare(['byok', 'versions', item.id])]} />
      </Dialog>
    );
  }
  return (
    <Dialog title={<>Another secret for {titleOf(item)}</>} onClose={onClose}>
      <form noValidate autoComplete="off" onSubmit={(e) => { e.preventDefault(); void run(); }}>
        {ending !== undefined
          ? <div className="held"><span>The secret is entered{ending && <> and ends in <code>{ending}</code></>}.</span><button type="button" disabled={busy} onClick={() => { enterAnother(); clear(); }}>Enter another</button></div>
          : <Field label="The new secret" error={fault || (error instanceof Refusal && error.field('secret') ? `The secret ${error.field('secret')}.` : '')} hint={provider?.key_page_url && <a href={provider.key_page_url} target="_blank" rel="noreferrer">Make one at {display} ↗</a>}>
            {(ids) => (isDocument ? <textarea {...ids} ref={input} className="masked" rows={4} autoComplete="off" spellCheck={false} data-autofocus />
              : <input {...ids} ref={input} type="password" autoComplete="off" data-1p-ignore spellCheck={false} data-autofocus />)}
          </Field>}
        <Field label="The old secret" hint="Within this time, it comes back by itself if the provider refuses the new one.">
          {(ids) => <select {...ids} value={overlap} onChange={(e) => setOverlap(e.target.value)}><option value="15m">stays for 15 minutes</option><option value="24h">stays for a day</option><option value="0s">has leaked: destroy it at once</option></select>}
        </Field>
        <label className="check"><input type="checkbox" checked={test} onChange={(e) => setTest(e.target.checked)} /> <span>Test the new one at {display} first</span></label>
        <p className="outcome">Id, name and callers stay. Data planes change over within a second, and no request fails.</p>
        {error !== undefined && <Fault error={error} />}
        <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="submit" className="primary" disabled={busy}>{busy ? 'Changing…' : 'Change the secret'}</button></div>
      </form>
      <CopyAs commands={[tare(['byok', 'rotate', item.id], { activate: test ? undefined : 'now', overlap })]} />
    </Dialog>
  );
}
