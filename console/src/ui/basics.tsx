// Parts that all pages share: native elements with our own style.
import { useEffect, useId, useRef, useState, type ReactNode } from 'react';
import { NoAnswer, Refusal, clock, type Schemas } from '../api/client.ts';
import { exact, relative } from '../logic/time.ts';
import type { Command } from '../logic/commands.ts';
import { Link } from './router.tsx';

/** The server's time, refreshed so often. */
export function useNow(every = 10_000): number {
  const [now, setNow] = useState(() => clock.now());
  useEffect(() => {
    setNow(clock.now());
    const timer = setInterval(() => setNow(clock.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

export function When({ at, now }: { at: string | undefined; now: number }) {
  return at ? <time dateTime={at} title={exact(at)}>{relative(at, now)}</time> : <span className="quiet">never</span>;
}

/** A page: its title, what can be done on it, and its body. */
export function Page({ title, lead, tools, commands, children }: { title: ReactNode; lead?: ReactNode; tools?: ReactNode; commands?: Command[]; children: ReactNode }) {
  return (
    <>
      <div className="head">
        <div><h1 tabIndex={-1}>{title}</h1>{lead && <p className="lead">{lead}</p>}</div>
        {tools && <div className="tools">{tools}</div>}
      </div>
      {children}
      {commands && commands.length > 0 && <CopyAs commands={commands} />}
    </>
  );
}

export function Panel({ title, note, tools, children, id }: { title?: ReactNode; note?: ReactNode; tools?: ReactNode; children: ReactNode; id?: string }) {
  const heading = useId();
  return (
    <section className="panel" aria-labelledby={title ? heading : undefined} id={id}>
      {title && <div className="panel-head"><h2 id={heading}>{title}</h2>{note && <p>{note}</p>}{tools}</div>}
      {children}
    </section>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return <div className="empty"><p className="empty-title">{title}</p>{children}</div>;
}

export function Loading({ rows = 4 }: { rows?: number }) {
  return (
    <div className="skeleton" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, i) => <div key={i} />)}
    </div>
  );
}

/** What went wrong, what to do about it, and the request's id for who has to look it up. */
export function Fault({ error, retry }: { error: unknown; retry?: () => void }) {
  const again = retry && <button type="button" onClick={retry}>Try again</button>;
  if (error instanceof NoAnswer) {
    return <div className="fault" role="alert"><p><b>The service does not answer.</b> This page tries again by itself.</p>{again}</div>;
  }
  if (error instanceof Refusal) {
    if (error.status === 403) {
      return (
        <div className="fault" role="alert"><p><b>You may not see this.</b> {error.message}</p><p><Link href="/access">See who you are here</Link></p></div>
      );
    }
    return (
      <div className="fault" role="alert">
        <p><b>{error.problem.title}.</b> {error.message}</p>
        {error.problem.errors?.map((e) => <p key={e.field}><code>{e.field}</code> {e.message}</p>)}
        <p className="quiet">
          {error.kind !== 'blank' && <a href={`/problems/${error.kind}`} target="_blank" rel="noreferrer">What this means ↗</a>}
          {error.problem.request_id && <> · request <code>{error.problem.request_id}</code></>}
        </p>
        {again}
      </div>
    );
  }
  return <div className="fault" role="alert"><p><b>This page has failed.</b> Load it again.</p>{again}</div>;
}

/** Shows a query's data, or its loading, empty or failed state. Data that is there stays while a later read fails. */
export function Await<T>({ query, rows, children }: { query: { data: T | undefined; error: unknown; refetch: () => unknown }; rows?: number; children: (data: T) => ReactNode }) {
  if (query.data !== undefined) return <>{children(query.data)}</>;
  if (query.error) return <Fault error={query.error} retry={() => void query.refetch()} />;
  return <Loading rows={rows} />;
}

/** A modal dialog. Esc closes it, and the focus returns to where it was. */
export function Dialog({ title, onClose, children, wide = false }: { title: ReactNode; onClose: () => void; children: ReactNode; wide?: boolean }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const element = dialog.current;
    const before = document.activeElement;
    if (element && !element.open) element.showModal();
    return () => {
      element?.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  const isFocused = useRef(false);
  useEffect(() => { // what has the focus first may come later, with the data that it needs
    const first = isFocused.current ? null : dialog.current?.querySelector<HTMLElement>('[data-autofocus]');
    if (!first) return;
    first.focus();
    isFocused.current = true;
  });
  return (
    <dialog ref={dialog} aria-labelledby={heading} className={wide ? 'wide' : undefined}
      onCancel={(e) => { if (e.target === e.currentTarget) { e.preventDefault(); onClose(); } }}>
      <div className="dialog-head">
        <h2 id={heading}>{title}</h2>
        <button type="button" className="plain" onClick={onClose} aria-label="Close">✕</button>
      </div>
      {children}
    </dialog>
  );
}

export function Field({ label, hint, error, children }: { label: ReactNode; hint?: ReactNode; error?: string; children: (ids: { id: string; 'aria-describedby': string | undefined; 'aria-invalid': boolean | undefined }) => ReactNode }) {
  const id = useId();
  const described = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(' ');
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children({ id, 'aria-describedby': described || undefined, 'aria-invalid': error ? true : undefined })}
      {hint && <p className="hint" id={`${id}-hint`}>{hint}</p>}
      {error && <p className="field-error" id={`${id}-error`}>{error}</p>}
    </div>
  );
}

export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

export function Copy({ text, label = 'Copy', className }: { text: string | (() => string); label?: string; className?: string }) {
  const [state, setState] = useState('');
  useEffect(() => {
    if (!state) return;
    const timer = setTimeout(() => setState(''), 2000);
    return () => clearTimeout(timer);
  }, [state]);
  return (
    <button type="button" className={className} onClick={async () => setState(await copyText(typeof text === 'string' ? text : text()) ? 'Copied' : 'Not copied')}>
      <span aria-live="polite">{state || label}</span>
    </button>
  );
}

/** The page as commands. Browsers let pages write to the clipboard over https and on this machine only, so the text is shown. */
export function CopyAs({ commands }: { commands: Command[] }) {
  return (
    <details className="copy-as">
      <summary>Do this in a terminal</summary>
      {commands.map((command) => <Copyable key={command.label} {...command} />)}
      <p className="hint">The credential comes from <code>AGENTROUTER_API_KEY</code>, and for tare from <code>tare login</code>.</p>
    </details>
  );
}

/** A command with a button that copies it. */
export function Copyable({ label, text }: Command) {
  return <div className="command"><pre tabIndex={0} aria-label={`As ${label}`}><code>{text}</code></pre><Copy text={text} label={`Copy ${label}`} /></div>;
}

/** Offers text as a file. */
export function download(name: string, type: string, text: string) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const marks = { ok: '●', quiet: '○', warn: '▲', bad: '■' };
export function Tone({ tone, children }: { tone: keyof typeof marks; children: ReactNode }) {
  return <span className={`tone ${tone}`}><span aria-hidden="true">{marks[tone]}</span> {children}</span>;
}

/** Names the other keys that have the secret of one that was stored. */
export function Duplicates({ warnings }: { warnings: Schemas['KeyWarning'][] }) {
  return warnings.map(({ key_id }) => <p key={key_id}>Stored. <Link href={`/keys/${key_id}`}>Another key</Link> has the same secret.</p>);
}

/** Runs one action at a time and keeps what it failed with. Unlike a query's cache, it keeps nothing that it was given. */
export function useAction<A extends unknown[]>(act: (...given: A) => Promise<void>) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(undefined);
  const running = useRef(false);
  const run = async (...given: A) => {
    if (running.current) return;
    running.current = true;
    setBusy(true);
    setError(undefined);
    try {
      await act(...given);
    } catch (failure) {
      setError(failure);
    } finally {
      running.current = false;
      setBusy(false);
    }
  };
  return { run, busy, error, clear: () => setError(undefined) };
}
