// The frame of all pages: the session, the navigation, the keyboard, and what is wrong with the connection.
import { Suspense, useEffect, useRef, useState, type ComponentType } from 'react';
import { signOut, type WhoAmI } from './api/client.ts';
import type { Answer } from './api/issuer.ts';
import { queries, useConnection } from './api/queries.ts';
import { Dialog, Loading, Page, useNow } from './ui/basics.tsx';
import { Palette } from './ui/palette.tsx';
import { KeyPage } from './pages/key.tsx';
import { KeysPage } from './pages/keys.tsx';
import { later, more } from './pages/later.ts';
import { ResolvePage } from './pages/resolve.tsx';
import { SignIn } from './pages/signin.tsx';
import { span } from './logic/time.ts';
import { Link, go, usePath } from './ui/router.tsx';

function NotLoaded() {
  return <Page title="This page could not be loaded"><p>The service did not answer. <button type="button" className="link" onClick={() => location.reload()}>Load it again</button></p></Page>;
}

interface Section { path: string; label: string; letter: string; page: ComponentType }

export const places: Section[] = [
  { path: '/keys', label: 'Keys', letter: 'k', page: KeysPage },
  { path: '/resolve', label: 'Resolve', letter: 'r', page: ResolvePage },
  { path: '/policy', label: 'Policy', letter: 'p', page: later<object>((all) => all.PolicyPage, NotLoaded) },
  { path: '/members', label: 'Members', letter: 'm', page: later<object>((all) => all.MembersPage, NotLoaded) },
  { path: '/usage', label: 'Usage', letter: 'u', page: later<object>((all) => all.UsagePage, NotLoaded) },
  { path: '/audit', label: 'Audit', letter: 'a', page: later<object>((all) => all.AuditPage, NotLoaded) },
  { path: '/planes', label: 'Data planes', letter: 'd', page: later<object>((all) => all.PlanesPage, NotLoaded) },
  { path: '/access', label: 'My access', letter: 'i', page: later<object>((all) => all.AccessPage, NotLoaded) },
];

export function App({ answer }: { answer?: Answer }) {
  const { who, ended } = useConnection();
  useEffect(() => { void more().catch(() => undefined); }, []); // so that they are here when they are opened
  if (!who) return <main className="sign-in"><SignIn answer={answer} /></main>;
  return <Frame who={who} ended={ended} />;
}

function Frame({ who, ended }: { who: WhoAmI; ended: boolean }) {
  const at = usePath();
  const [help, setHelp] = useState(false);
  const [palette, setPalette] = useState(false);
  const main = useRef<HTMLElement>(null);
  useShortcuts({ onHelp: () => setHelp(true), onPalette: () => setPalette(true) });
  useEffect(() => {
    const place = places.find((p) => at.startsWith(p.path));
    document.title = `${place?.label ?? 'AI Keys'} · AI Keys`;
  }, [at]);
  const first = useRef(true);
  const page = at.split('/').slice(0, 3).join('/');
  useEffect(() => { // a new page begins at its heading, for eyes and for screen readers
    if (first.current) { first.current = false; return; }
    scrollTo(0, 0);
    main.current?.querySelector<HTMLElement>('h1')?.focus({ preventScroll: true });
  }, [page]);
  return (
    <>
      <a className="skip" href="#content">Skip to the content</a>
      <header className="site">
        <Link className="brand" href="/keys"><img src="/docs/assets/icon.svg" alt="" width="22" height="22" />AI Keys</Link>
        <Navigation at={at} />
        <span className="who"><span className="project">{who.customer_id} / {who.project_id} · </span><Link href="/access">{who.user_id}{who.role ? ` (${who.role})` : ''}</Link></span>
        <button type="button" className="plain" onClick={() => { queries.clear(); signOut(); }}>Sign out</button>
      </header>
      <Notices who={who} />
      <main id="content" ref={main} tabIndex={-1}>
        <Place at={at} />
      </main>
      <footer className="site">
        <a href="/docs" target="_blank" rel="noreferrer">API ↗</a> · <a href="/docs/getting-started" target="_blank" rel="noreferrer">Getting started ↗</a> · <a href="/docs/problems" target="_blank" rel="noreferrer">Problems ↗</a> · <button type="button" className="link" onClick={() => setHelp(true)}>Keyboard</button>
      </footer>
      {ended && <Dialog title="Your session has ended" onClose={() => { queries.clear(); signOut(); }}><SignIn again={who} /></Dialog>}
      {help && <Shortcuts onClose={() => setHelp(false)} />}
      {palette && <Palette places={places} onClose={() => setPalette(false)} />}
    </>
  );
}

function Place({ at }: { at: string }) {
  useEffect(() => { if (at === '/') go('/keys', { replace: true }); }, [at]);
  const id = /^\/keys\/([\w-]+)$/.exec(at)?.[1];
  if (id) return <KeyPage key={id} id={id} />;
  const place = places.find((p) => p.path === at);
  if (place) return <Suspense fallback={<Page title={place.label}><Loading /></Page>}><place.page /></Suspense>;
  return at === '/' ? null : <Page title="There is no such page"><p><Link href="/keys">Go to the keys</Link></p></Page>;
}

function Navigation({ at }: { at: string }) {
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [at]);
  const here = places.find((p) => at.startsWith(p.path));
  return (
    <>
      <button type="button" className="menu" aria-expanded={open} aria-controls="navigation" onClick={() => setOpen(!open)}>☰ {here?.label ?? 'Menu'}</button>
      <nav id="navigation" aria-label="Console" data-open={open}>
        {places.map((p) => <Link key={p.path} href={p.path} aria-current={here === p ? 'page' : undefined}>{p.label}</Link>)}
        <a className="docs" href="/docs" target="_blank" rel="noreferrer">Docs ↗</a>
      </nav>
    </>
  );
}

/** What the reader must know of the connection and the session, above every page. */
function Notices({ who }: { who: WhoAmI }) {
  const { downSince, lastAnswer } = useConnection();
  const now = useNow(1_000);
  useEffect(() => {
    if (!downSince) return;
    const timer = setInterval(() => void queries.refetchQueries({ type: 'active' }), 4_000);
    return () => clearInterval(timer);
  }, [downSince]);
  const left = who.expires_at ? Date.parse(who.expires_at) - now : Infinity;
  return (
    <div className="notices" role="status">
      {downSince !== 0 && <p className="notice warn"><b>The service does not answer.</b> What you see is from {new Date(lastAnswer).toLocaleTimeString()}. It is asked again every few seconds.</p>}
      {left < 10 * 60_000 && left > 0 && <p className="notice">Your session ends in {span(left)}.</p>}
      {!who.role && <p className="notice warn"><b>You are not a member of {who.customer_id} / {who.project_id}.</b> Ask one of its owners to add <code>{who.user_id}</code>, then load this page again.</p>}
    </div>
  );
}

const storageOfShortcuts = 'shortcuts';

/** Letters are shortcuts unless the reader has turned them off, or types. */
const lettersOn = () => localStorage.getItem(storageOfShortcuts) !== 'off';

function useShortcuts({ onHelp, onPalette }: { onHelp: () => void; onPalette: () => void }) {
  const afterG = useRef(-Infinity); // when G was pressed, after which a letter names a page
  useEffect(() => {
    const press = (e: KeyboardEvent) => {
      if ((e.ctrlKey || e.metaKey) && e.key === 'k') {
        e.preventDefault();
        if (!document.querySelector('dialog[open]')) onPalette();
        return;
      }
      const target = e.target as HTMLElement;
      if (e.ctrlKey || e.metaKey || e.altKey || target.closest('input, textarea, select, [contenteditable]') || document.querySelector('dialog[open]') || !lettersOn()) return;
      if (e.timeStamp - afterG.current < 1500) {
        afterG.current = -Infinity;
        const place = places.find((p) => p.letter === e.key);
        if (place) {
          e.preventDefault();
          go(place.path);
        }
        return;
      }
      switch (e.key) {
        case 'g': afterG.current = e.timeStamp; return;
        case '?': onHelp(); break;
        case '/': document.querySelector<HTMLElement>('[data-key="/"]')?.focus(); break;
        case 'a': document.querySelector<HTMLElement>('[data-key="a"]')?.click(); break;
        case 'r': document.querySelector<HTMLElement>('[data-key="r"]')?.click(); break;
        case 'j': case 'k': moveRow(e.key === 'j' ? 1 : -1); break;
        default: return;
      }
      e.preventDefault();
    };
    document.addEventListener('keydown', press);
    return () => document.removeEventListener('keydown', press);
  });
}

/** Moves the focus to the next row's link. */
function moveRow(by: number) {
  const rows = [...document.querySelectorAll<HTMLElement>('[data-row]')];
  const at = rows.indexOf(document.activeElement as HTMLElement);
  rows[Math.min(Math.max(0, at + by), rows.length - 1)]?.focus();
}

function Shortcuts({ onClose }: { onClose: () => void }) {
  const [on, setOn] = useState(lettersOn);
  const all: [string, string][] = [
    ['/', 'Search'], ['A', 'Add a key'], ['R', 'Revoke the key of the page'], ['J K', 'Next and previous row'], ['Enter', 'Open the row'],
    ...places.map((p): [string, string] => [`G ${p.letter.toUpperCase()}`, p.label]), ['Ctrl K', 'Go to a key or page'], ['Esc', 'Close'], ['?', 'This list'],
  ];
  return (
    <Dialog title="Keyboard" onClose={onClose}>
      <dl className="shortcuts">{all.map(([key, what]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>)}</dl>
      <label className="check"><input type="checkbox" checked={on} onChange={(e) => { localStorage.setItem(storageOfShortcuts, e.target.checked ? 'on' : 'off'); setOn(e.target.checked); }} /> Single letters are shortcuts</label>
    </Dialog>
  );
}
