// Paths below /console, in the browser's history. A link is a link: it can be copied, and opened in another tab.
import { useCallback, useMemo, useSyncExternalStore, type AnchorHTMLAttributes } from 'react';

const base = '/console';
let listeners: (() => void)[] = [];
const tell = () => { for (const listener of listeners) listener(); };
addEventListener('popstate', tell);

function subscribe(listener: () => void) {
  listeners = [...listeners, listener];
  return () => { listeners = listeners.filter((l) => l !== listener); };
}

export function go(to: string, { replace = false } = {}) {
  history[replace ? 'replaceState' : 'pushState'](null, '', base + to);
  tell();
}

/** The path below /console, such as /keys. */
export const usePath = () => useSyncExternalStore(subscribe, () => location.pathname.slice(base.length).replace(/\/$/, '') || '/');

export function Link({ href, onClick, ...rest }: AnchorHTMLAttributes<HTMLAnchorElement> & { href: string }) {
  return (
    <a {...rest} href={base + href} onClick={(e) => {
      onClick?.(e);
      if (e.defaultPrevented || e.button !== 0 || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
      e.preventDefault();
      go(href);
    }} />
  );
}

/** Filters live in the URL, so that a link shows what its sender saw. */
export function useFilters<N extends string>(names: readonly N[]): [Record<N, string>, (changes: Partial<Record<N, string>>) => void] {
  const search = useSyncExternalStore(subscribe, () => location.search);
  const list = names.join();
  const values = useMemo(() => {
    const params = new URLSearchParams(search);
    return Object.fromEntries(list.split(',').map((n) => [n, params.get(n) ?? ''])) as Record<N, string>;
  }, [search, list]);
  const set = useCallback((changes: Partial<Record<N, string>>) => {
    const params = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changes) as [string, string | undefined][]) {
      if (value) params.set(name, value); else params.delete(name);
    }
    const next = params.size > 0 ? `?${params}` : '';
    history.replaceState(null, '', location.pathname + next);
    tell();
  }, []);
  return [values, set];
}
