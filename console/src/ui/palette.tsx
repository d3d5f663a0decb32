// Ctrl-K: go to a key or a page by typing part of its name.
import { useMemo, useState } from 'react';
import { useKeys } from '../api/queries.ts';
import { Dialog } from './basics.tsx';
import { go } from './router.tsx';

export function Palette({ places, onClose }: { places: { path: string; label: string }[]; onClose: () => void }) {
  const [text, setText] = useState('');
  const [at, setAt] = useState(0);
  const keys = useKeys();
  const found = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const all = [
      ...places.map((p) => ({ to: p.path, label: p.label, note: 'page' })),
      ...(keys.data ?? []).map((k) => ({ to: `/keys/${k.id}`, label: k.name, note: `${k.provider}${k.display_suffix ? ` …${k.display_suffix}` : ''} · ${k.state}` })),
    ];
    return all.filter((e) => words.every((w) => `${e.label} ${e.note} ${e.to}`.toLowerCase().includes(w))).slice(0, 12);
  }, [text, keys.data, places]);
  const open = (to: string | undefined) => {
    if (!to) return;
    onClose();
    go(to);
  };
  return (
    <Dialog title="Go to" onClose={onClose}>
      <input type="search" data-autofocus role="combobox" aria-expanded="true" aria-controls="palette" aria-activedescendant={found[at] ? `palette-${at}` : undefined} aria-label="A key or page" placeholder="A key or page"
        value={text} onChange={(e) => { setText(e.target.value); setAt(0); }}
        onKeyDown={(e) => {
          if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
            e.preventDefault();
            setAt((i) => Math.min(Math.max(0, i + (e.key === 'ArrowDown' ? 1 : -1)), found.length - 1));
          } else if (e.key === 'Enter') {
            e.preventDefault();
            open(found[at]?.to);
          }
        }} />
      <ul id="palette" role="listbox" aria-label="What was found" className="palette">
        {found.map((e, i) => <li key={e.to} id={`palette-${i}`} role="option" aria-selected={i === at} onClick={() => open(e.to)}>{e.label} <span className="quiet">{e.note}</span></li>)}
      </ul>
      {found.length === 0 && <p className="quiet">Nothing has this in its name.</p>}
    </Dialog>
  );
}
