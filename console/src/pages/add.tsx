import { useId, useRef, useState } from 'react';
import { api, NoAnswer, project, Refusal, unwrap, type Provider, type Schemas } from '../api/client.ts';
import { forgetKeys, queries, useConnection, useKeys, usePolicy, useProviders } from '../api/queries.ts';
import { curl, projectPath, tare } from '../logic/commands.ts';
import { endingOf, isSecretField, looksSecret, ownerOf, refuseSecret } from '../logic/detect.ts';
import { ruleFor, servingKey } from '../logic/ladder.ts';
import { titleOf } from '../logic/sentences.ts';
import { Await, CopyAs, Dialog, Duplicates, Fault, Field, useAction, useNow } from '../ui/basics.tsx';
import { nameOf } from './keys.tsx';
import { go } from '../ui/router.tsx';

export function AddKey({ onClose }: { onClose: () => void }) {
  const providers = useProviders();
  return (
    <Dialog title="Add key" onClose={onClose} wide>
      <Await query={providers}>{(all) => <AddForm providers={all} onClose={onClose} />}</Await>
    </Dialog>
  );
}

function AddForm({ providers, onClose }: { providers: Provider[]; onClose: () => void }) {
  const { who } = useConnection();
  const isOwner = who?.role === 'owner';
  const keys = useKeys();
  const policy = usePolicy();
  const now = useNow();
  const [slug, setSlug] = useState('');
  const [own, setOwn] = useState(!isOwner);
  const [name, setName] = useState('');
  const [nameTyped, setNameTyped] = useState(false);
  const [verify, setVerify] = useState(true);
  const [expires, setExpires] = useState('');
  const [faults, setFaults] = useState<Record<string, string>>({});
  const [other, setOther] = useState<Provider>(); // whose key it looks like
  // The secret is in an input until it is first sent, and then in this memory alone, until it is stored or the form closes.
  const held = useRef('');
  const [isHeld, setHeld] = useState('');
  const input = useRef<HTMLInputElement | HTMLTextAreaElement>(null);
  const fields = useRef<HTMLDivElement>(null);
  const attempt = useRef({ body: '', key: '' });
  const [stored, setStored] = useState<Schemas['KeyWarning'][]>(); // the warnings about it
  const provider = providers.find((p) => p.slug === slug);
  const taken = (keys.data ?? []).filter((k) => k.state !== 'revoked' && k.provider === slug && k.user_scope === own);

  const choose = (next: string) => {
    setSlug(next);
    setOther(undefined);
    setFaults({});
    if (!nameTyped) setName(next ? freeName(`${next.replaceAll('_', '-')}-${own ? who?.user_id ?? 'mine' : 'prod'}`, new Set((keys.data ?? []).filter((k) => k.state !== 'revoked' && k.provider === next && k.user_scope === own).map((k) => k.name))) : '');
  };
  const detect = (text: string) => {
    const owner = ownerOf(text.trim(), providers);
    if (owner && !slug) choose(owner.slug);
    setOther(owner && slug && owner.slug !== slug && owner.secret_format === 'token' ? owner : undefined);
    setFaults((f) => ({ ...f, secret: '' }));
  };
  const release = () => {
    held.current = '';
    setHeld('');
  };

  const { run, busy, error, clear } = useAction(async (force: boolean) => {
    const wrong: Record<string, string> = {};
    if (!provider) wrong.provider = 'Choose the provider.';
    if (!name.trim()) wrong.name = 'Give it a name.';
    else if (looksSecret(name.trim(), providers)) wrong.name = 'This looks like the secret itself. A name is shown to all members.';
    const secret = held.current || readSecret(provider, input.current, fields.current);
    const refusal = secret === '' ? 'Paste the provider’s key.' : provider?.secret_format === 'json' ? '' : refuseSecret(secret);
    if (refusal) wrong.secret = refusal;
    setFaults(wrong);
    if (!provider || Object.values(wrong).some(Boolean)) return;
    emptyInputs(input.current, fields.current);
    held.current = secret;
    setHeld(provider.secret_format === 'json' ? 'document' : endingOf(secret));
    const body = {
      provider: provider.slug, name: name.trim(), secret, user_scope: own, verify, ...(force && { force: true }),
      ...(expires && { expires_at: new Date(expires).toISOString() }),
    };
    // A repeat of the same request makes no second key; another request needs another value.
    const fingerprint = JSON.stringify(body);
    if (attempt.current.body !== fingerprint) attempt.current = { body: fingerprint, key: randomId() };
    try {
      const { key, warnings } = await unwrap(api.POST('/v1/customers/{customer_id}/projects/{project_id}/aikeys', {
        params: { path: project(), header: { 'Idempotency-Key': attempt.current.key } }, body,
      }));
      held.current = '';
      attempt.current = { body: '', key: '' };
      queries.setQueryData(['key', key.id], key);
      if (warnings) setStored(warnings);
      else {
        onClose();
        go(`/keys/${key.id}`);
      }
      await forgetKeys();
    } catch (failure) {
      if (failure instanceof Refusal) {
        setFaults({ name: failure.field('name') && `The name ${failure.field('name')}.`, secret: failure.field('secret') && `The secret ${failure.field('secret')}.`, expires: failure.field('expires_at') && `The time ${failure.field('expires_at')}.` });
        if (failure.status !== 422 && failure.field('secret')) release(); // it has to be entered again
      }
      throw failure;
    }
  });
  const rejected = error instanceof Refusal && error.kind === 'secret-rejected';

  if (stored) return <Duplicates warnings={stored} />;
  return (
    <form noValidate onSubmit={(e) => { e.preventDefault(); void run(false); }} autoComplete="off">
      {isHeld
        ? <div className="held"><span>The secret is entered{isHeld !== 'document' && isHeld && <> and ends in <code>{isHeld}</code></>}. It waits in this page’s memory until it is stored.</span><button type="button" disabled={busy} onClick={() => { release(); clear(); }}>Enter another</button></div>
        : provider?.secret_format === 'json'
          ? <DocumentFields key={provider.slug} provider={provider} input={input} fields={fields} error={faults.secret} />
          : (
            <Field label="The provider’s key" error={faults.secret} hint={<>Paste it: the provider is found by its beginning.{provider?.key_page_url && <> <a href={provider.key_page_url} target="_blank" rel="noreferrer">Make one at {provider.display_name} ↗</a></>}</>}>
              {(ids) => <input {...ids} ref={input as React.RefObject<HTMLInputElement>} type="password" name="provider-key" autoComplete="off" data-autofocus data-1p-ignore spellCheck={false} placeholder={provider?.prefixes[0] ? `${provider.prefixes[0]}…` : undefined} onChange={(e) => detect(e.target.value)} />}
            </Field>
          )}
      {other && <p className="notice warn">This is a key of {other.display_name}. <button type="button" onClick={() => choose(other.slug)}>Switch to {other.display_name}</button></p>}
      <div className="pair">
        <Field label="Provider" error={faults.provider}>
          {(ids) => (
            <select {...ids} value={slug} disabled={Boolean(isHeld)} onChange={(e) => choose(e.target.value)}>
              <option value="">Choose…</option>
              {providers.map((p) => <option key={p.slug} value={p.slug}>{p.display_name}</option>)}
            </select>
          )}
        </Field>
        <Field label="Name" error={faults.name}>
          {(ids) => <input {...ids} value={name} maxLength={128} autoComplete="off" spellCheck={false} onChange={(e) => { setName(e.target.value); setNameTyped(true); }} />}
        </Field>
      </div>
      <fieldset>
        <legend>Whose requests does it serve?</legend>
        <label className="check"><input type="radio" name="scope" checked={!own} disabled={!isOwner || busy} onChange={() => setOwn(false)} /> <span>The whole project’s{!isOwner && <span className="quiet"> (only an owner may add these)</span>}</span></label>
        <label className="check"><input type="radio" name="scope" checked={own} disabled={busy} onChange={() => setOwn(true)} /> <span>Only mine</span></label>
      </fieldset>
      <label className="check"><input type="checkbox" checked={verify} onChange={(e) => setVerify(e.target.checked)} /> <span>Test it at {provider?.display_name ?? 'the provider'} first <span className="quiet">(a request that costs nothing)</span></span></label>
      <details className="more">
        <summary>More</summary>
        <Field label="Stops serving at" error={faults.expires} hint="Such as when it expires at the provider. Empty is never.">
          {(ids) => <input {...ids} type="datetime-local" value={expires} onChange={(e) => setExpires(e.target.value)} />}
        </Field>
      </details>
      {provider && <p className="outcome" role="status">{outcomeOf()}</p>}
      {error !== undefined && !rejected && <Fault error={error} />}
      {error instanceof NoAnswer && <p className="hint">Send it again: the same request makes no second key.</p>}
      {rejected && (
        <div className="fault" role="alert">
          <p><b>{provider?.display_name} rejects this key, so nothing was stored.</b> Check that it is whole, and not revoked there.</p>
          <button type="button" disabled={busy} onClick={() => void run(true)}>Store it anyway</button>
        </div>
      )}
      <div className="bar end">
        <button type="button" onClick={onClose}>Cancel</button>
        <button type="submit" className="primary" disabled={busy}>{busy ? verify ? 'Testing and storing…' : 'Storing…' : 'Add key'}</button>
      </div>
      {provider && <CopyAs commands={[
        { ...curl(location.origin, 'POST', projectPath(project(), '/aikeys'), { provider: slug, name, secret: '$PROVIDER_KEY', ...(own && { user_scope: true }), ...(verify && { verify }) }), text: curlFromStdin() },
        tare(['byok', 'add'], { provider: slug, name })].map((c) => c.label === 'tare' && own ? { ...c, text: `${c.text} --user-scope` } : c)} />}
    </form>
  );

  function curlFromStdin() {
    const body = { provider: slug, name, user_scope: own, verify };
    return `curl -sS -X POST ${location.origin}${projectPath(project(), '/aikeys')} \\\n  --oauth2-bearer "$AGENTROUTER_API_KEY" -H 'Content-Type: application/json' -d @- <<EOF\n${JSON.stringify(body).slice(0, -1)},"secret":"$PROVIDER_KEY"}\nEOF`;
  }

  /** What will happen, before it does. */
  function outcomeOf() {
    const display = nameOf(slug, providers);
    const rule = ruleFor(policy.data, slug);
    const collides = taken.some((k) => k.name === name.trim()) ? ' An active key has this name already.' : '';
    if (own && rule === 'forbid') return `It will be stored, but serve nobody: the policy forbids members’ own keys for ${display}.${collides}`;
    if (!own && rule === 'require') return `It will be stored, but serve nobody: the policy requires that members use keys of their own for ${display}.${collides}`;
    const replaced = servingKey(taken, { ...(policy.data ?? { user_keys_by_provider: {}, on_bad_key: 'fail' }), user_keys: 'allow', user_keys_by_provider: {} }, slug, now);
    const whom = own ? 'your requests' : 'the project’s requests';
    return `${replaced ? `${replaced.weight || (replaced.order ?? 0) < 0 ? `It stays behind ${titleOf(replaced)}, which serves ${whom} to ${display}.` : `It takes over ${whom} to ${display} from ${titleOf(replaced)} at once; that key stays as standby.`}` : `It will serve ${whom} to ${display} at once.`}${collides}`;
  }
}

function freeName(wanted: string, taken: Set<string>): string {
  let name = wanted;
  for (let n = 2; taken.has(name); n++) name = `${wanted}-${n}`;
  return name;
}

function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
}

/** Reads the secret from its input, or the credential document from its fields. */
function readSecret(provider: Provider | undefined, input: HTMLInputElement | HTMLTextAreaElement | null, fields: HTMLDivElement | null): string {
  const secret = input?.value.trim() ?? '';
  if (secret || provider?.secret_format !== 'json' || !fields) return secret;
  const filled = [...fields.querySelectorAll('input')].filter((i) => i.value.trim() !== '');
  return filled.length > 0 ? JSON.stringify(Object.fromEntries(filled.map((i) => [i.name, i.value.trim()]))) : '';
}

function emptyInputs(input: HTMLInputElement | HTMLTextAreaElement | null, fields: HTMLDivElement | null) {
  if (input) input.value = '';
  for (const i of fields?.querySelectorAll('input') ?? []) i.value = '';
}

interface DocumentProps { provider: Provider; input: React.RefObject<HTMLInputElement | HTMLTextAreaElement | null>; fields: React.RefObject<HTMLDivElement | null>; error: string | undefined }

/** The credential of a cloud: its fields one by one, or the document as the cloud gives it. */
function DocumentFields({ provider, input, fields, error }: DocumentProps) {
  const groups = provider.alternative_fields ?? [];
  const isFile = provider.required_fields.includes('private_key');
  const [group, setGroup] = useState(0);
  const [fileFault, setFileFault] = useState('');
  const asFile = groups.length;
  const chosen = isFile ? asFile : group;
  const how = useId();
  const read = async (file: File | undefined) => {
    if (!file) return;
    if (file.size > 16_384) {
      setFileFault('The file is larger than 16 KiB: it is not a credential document.');
      return;
    }
    const text = await file.text();
    if (input.current) input.current.value = text;
    setFileFault('');
  };
  return (
    <>
      {!isFile && (
        <div className="field">
          <label htmlFor={how}>Credential of {provider.display_name}</label>
          <select id={how} value={group} onChange={(e) => setGroup(Number(e.target.value))}>
            {(groups.length ? groups : [[]]).map((g, i) => <option key={i} value={i}>{[...provider.required_fields, ...g].map(words).join(', ')}</option>)}
            <option value={asFile}>A JSON document</option>
          </select>
        </div>
      )}
      {chosen === asFile
        ? (
          <div onDragOver={(e) => e.preventDefault()} onDrop={(e) => { e.preventDefault(); void read(e.dataTransfer.files[0]); }}>
            <Field label={`The credential document of ${provider.display_name}`} error={error || fileFault} hint={<>Paste the JSON, drop the file here, or choose it. It needs {provider.required_fields.map(words).join(', ')}.{provider.key_page_url && <> <a href={provider.key_page_url} target="_blank" rel="noreferrer">Make one ↗</a></>}</>}>
              {(ids) => <textarea {...ids} ref={input as React.RefObject<HTMLTextAreaElement>} className="masked" rows={4} autoComplete="off" spellCheck={false} data-autofocus />}
            </Field>
            <input type="file" accept=".json,application/json" aria-label="Choose the file" onChange={(e) => { void read(e.target.files?.[0]); e.target.value = ''; }} />
          </div>
        )
        : (
          <div ref={fields} className="pair">
            {[...provider.required_fields, ...(groups[chosen] ?? [])].map((f, i) => (
              <Field key={f} label={words(f)} error={i === 0 ? error : undefined}>
                {(ids) => <input {...ids} name={f} type={isSecretField(f) ? 'password' : 'text'} autoComplete="off" spellCheck={false} data-autofocus={i === 0 ? true : undefined} />}
              </Field>
            ))}
          </div>
        )}
    </>
  );
}

const words = (field: string) => field.replaceAll('_', ' ');
