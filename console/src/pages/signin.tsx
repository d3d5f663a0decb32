import { useQuery } from '@tanstack/react-query';
import { useEffect, useRef, useState } from 'react';
import { NoAnswer, Refusal, signIn, type WhoAmI } from '../api/client.ts';
import { exchange, leaveForIssuer, readIssuer, SignInFailed, type Answer } from '../api/issuer.ts';
import { queries } from '../api/queries.ts';
import { refuseCredential } from '../logic/credential.ts';
import { Field, useAction } from '../ui/basics.tsx';

let isAnswered = false; // an answer of the issuer is good for one sign-in

/**
 * Asks for an API key or session token, or leads to the issuer where the service has one; `answer` is what came back from there. With
 * `again`, a session has ended and the page below waits.
 */
export function SignIn({ again, answer }: { again?: WhoAmI; answer?: Answer }) {
  const issuer = useQuery({ queryKey: ['sign-in'], queryFn: readIssuer, staleTime: 60_000, select: (found) => found ?? null });
  const input = useRef<HTMLInputElement>(null);
  const [fault, setFault] = useState('');
  const { run, busy } = useAction(async () => {
    const given = (input.current?.value ?? '').trim();
    const refusal = refuseCredential(given);
    if (refusal) {
      setFault(refusal);
      input.current?.focus();
      return;
    }
    setFault('');
    if (input.current) input.current.value = '';
    await open(given);
  });
  async function open(given: string) {
    try {
      const who = await signIn(given);
      if (again && (again.user_id !== who.user_id || again.project_id !== who.project_id)) queries.clear();
      else await queries.invalidateQueries();
    } catch (error) {
      setFault(error instanceof Refusal && error.status === 401
        ? 'The service does not accept it. It may have been revoked or have expired: ask for another one.'
        : error instanceof Refusal ? error.message
          : error instanceof NoAnswer ? 'The service does not answer. Check that it runs, then try again.' : 'This page has failed. Load it again.');
      input.current?.focus();
    }
  }
  const atIssuer = useAction(async (work: () => Promise<void>) => {
    setFault('');
    try {
      await work();
    } catch (error) {
      setFault(error instanceof SignInFailed ? error.message : 'This page has failed. Load it again.');
    }
  });
  useEffect(() => {
    if (!answer || isAnswered) return;
    isAnswered = true;
    void atIssuer.run(async () => open(await exchange(answer)));
  });
  return (
    <div className="sign-in-box">
      {!again && <div className="sign-in-brand"><img src="/docs/assets/icon.svg" alt="" width="40" height="40" /><h1>Sign in to AI Keys</h1></div>}
      {again && <p>The service no longer takes the credential of {again.user_id}. It was revoked, or it has expired. Sign in again to go on where you are.</p>}
      {issuer.data && (
        <>
          <button type="button" className="primary wide" disabled={atIssuer.busy} onClick={() => { const at = issuer.data; if (at) void atIssuer.run(() => leaveForIssuer(at)); }}>
            {atIssuer.busy ? 'Signing in…' : `Continue with ${new URL(issuer.data.issuer).host}`}
          </button>
          <p className="hint">or</p>
        </>
      )}
      <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
        <input type="text" name="username" autoComplete="username" className="unseen" tabIndex={-1} aria-hidden="true" defaultValue={again?.user_id ?? ''} />
        <Field label="API key or session token" error={fault} hint="It stays in the memory of this tab: it is not stored, and there is no cookie. After a reload you sign in again; a password manager can fill it in.">
          {(ids) => <input {...ids} ref={input} type="password" name="api-key" autoComplete="current-password" data-autofocus autoFocus spellCheck={false} placeholder="ak_…" />}
        </Field>
        <button type="submit" className={issuer.data ? 'wide' : 'primary wide'} disabled={busy}>{busy ? 'Signing in…' : 'Sign in'}</button>
      </form>
      {!again && (
        <details className="where">
          <summary>Where do I get one?</summary>
          <p><b>On your own machine:</b> <code>aikeysd dev</code> prints the API keys of an owner and a member.</p>
          <p><b>At work:</b> the operator of this service makes one for you, with <code>aikeysd admin token create</code>. Where the service trusts an OpenID Connect issuer, a session token of yours works too.</p>
          <p><a href="/docs/getting-started">Getting started</a></p>
        </details>
      )}
    </div>
  );
}
