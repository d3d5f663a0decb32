import { api, project, unwrap, type Schemas } from '../api/client.ts';
import { queries, useConnection, useServers } from '../api/queries.ts';
import { Fault, Field, Panel, useAction } from '../ui/basics.tsx';

/** The servers of the project's own, which owners add and remove where the operator lets them. */
export function Servers() {
  const { who } = useConnection();
  const { data } = useServers();
  const { run, busy, error } = useAction(async (change: () => Promise<unknown>) => {
    await change();
    await queries.invalidateQueries();
  });
  const mayChange = who?.role === 'owner' && data?.owners_may_add;
  if (!mayChange && !data?.providers.length) return null;
  const add = (form: HTMLFormElement) => run(() => unwrap(api.POST('/v1/customers/{customer_id}/projects/{project_id}/providers', {
    params: { path: project() }, body: Object.fromEntries([...new FormData(form)].filter(([, value]) => value)) as unknown as Schemas['AddCustomProviderRequest'],
  })));
  const remove = (slug: string) => run(() => unwrap(api.DELETE('/v1/customers/{customer_id}/projects/{project_id}/providers/{slug}', { params: { path: { ...project(), slug } } })));
  const text = (label: string, name: string, hint: string) => <Field label={label} hint={hint}>{(ids) => <input {...ids} name={name} spellCheck={false} />}</Field>;
  const choice = (label: string, name: string, values: string[]) => <Field label={label}>{(ids) => <select {...ids} name={name}>{values.map((v) => <option key={v}>{v}</option>)}</select>}</Field>;
  return (
    <Panel title="Servers of your own">
      <table className="stack"><tbody>{data?.providers.map((p) => (
        <tr key={p.slug}>
          <td><b>{p.display_name}</b> <code className="quiet">{p.slug}</code></td><td><code>{p.base_url}</code></td>
          <td className="do">{mayChange && p.project_id && <button type="button" className="bad" aria-label={`Remove ${p.slug}`} onClick={() => void remove(p.slug)}>Remove</button>}</td>
        </tr>
      ))}</tbody></table>
      {error !== undefined && <Fault error={error} />}
      {mayChange && (
        <form key={data?.providers.length} className="panel-body" onSubmit={(e) => { e.preventDefault(); void add(e.currentTarget); }}>
          {text('Slug', 'slug', 'x- and a name, such as x-vllm.')}
          {text('Base URL', 'base_url', 'Such as https://llm.example.com/v1. It can’t be changed: keys are sealed for it.')}
          {choice('API', 'dialect', ['openai', 'anthropic'])}
          {choice('Key', 'auth_style', ['bearer', 'header', 'none'])}
          {text('Header', 'header', 'For a key in a header, such as X-Api-Key.')}
          <button type="submit" disabled={busy}>Add a server</button>
        </form>
      )}
    </Panel>
  );
}
