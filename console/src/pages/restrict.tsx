import { useState } from 'react';
import { project, Refusal, type Key } from '../api/client.ts';
import { curl, projectPath, tare } from '../logic/commands.ts';
import { CopyAs, Dialog, Field, useAction } from '../ui/basics.tsx';
import { Changed, update } from './key.tsx';

type List = 'models' | 'operations' | 'users';

const linesOf = (text: string) => text.split(/[\n,]/).map((line) => line.trim()).filter(Boolean);

/** What a key may be used for. An empty list restricts nothing. */
export function RestrictDialog({ item, onClose }: { item: Key; onClose: () => void }) {
  const [text, setText] = useState<Record<List, string>>({
    models: (item.restrict?.models ?? []).join('\n'), operations: (item.restrict?.operations ?? []).join('\n'), users: (item.restrict?.users ?? []).join('\n'),
  });
  const lists = item.user_scope ? (['models', 'operations'] as const) : (['models', 'operations', 'users'] as const);
  const given = Object.fromEntries(lists.map((list) => [list, linesOf(text[list])] as const).map(([list, lines]) => [list, lines.length > 0 ? lines : null]));
  const restrict = Object.values(given).some(Boolean) ? given : null;
  const { run, busy, error } = useAction(async () => {
    await update(item, { restrict });
    onClose();
  });
  const fault = (list: List) => {
    const found = error instanceof Refusal ? error.problem.errors?.find((e) => e.field.startsWith(`restrict.${list}`)) : undefined;
    return found ? `An entry ${found.message}.` : '';
  };
  const field = (list: List, label: string, hint: string, first = false) => (
    <Field label={label} hint={hint} error={fault(list)}>
      {(ids) => <textarea {...ids} rows={3} data-autofocus={first || undefined} value={text[list]} autoComplete="off" autoCapitalize="none" spellCheck={false} onChange={(e) => setText({ ...text, [list]: e.target.value })} />}
    </Field>
  );
  return (
    <Dialog title={`What ${item.name} may be used for`} onClose={onClose}>
      <form onSubmit={(e) => { e.preventDefault(); void run(); }}>
        {field('models', 'Models', 'One a line, as requests name them, such as gpt-4o or o4-*. Empty allows all.', true)}
        {field('operations', 'Operations', 'Paths of the provider’s API, such as /chat/completions. Empty allows all.')}
        {!item.user_scope && field('users', 'Users', 'The members whom it serves. For others, the key does not exist. Empty means all members.')}
        <Changed error={error} />
        <div className="bar end"><button type="button" onClick={onClose}>Cancel</button><button type="submit" className="primary" disabled={busy}>Save</button></div>
      </form>
      <CopyAs commands={[curl(location.origin, 'PATCH', projectPath(project(), `/aikeys/${item.id}`), { restrict }),
        tare(['byok', 'update', item.id], Object.fromEntries(lists.map((list) => [`restrict-${list}`, linesOf(text[list]).join(',')])))]} />
    </Dialog>
  );
}
