import { useProviders } from '../api/queries.ts';
import { Copyable, Panel } from '../ui/basics.tsx';

/** What a project without keys shows: the way to the first answer. */
export function FirstSteps({ onAdd }: { onAdd: () => void }) {
  const providers = useProviders();
  const shown = ['openai', 'anthropic', 'gemini'].flatMap((slug) => providers.data?.find((p) => p.slug === slug) ?? []);
  return (
    <Panel title="The first key" note="Three steps to the first answer">
      <ol className="steps">
        <li><b>Make a key at your provider.</b> {shown.map((p, i) => <span key={p.slug}>{i > 0 && ' · '}<a href={p.key_page_url} target="_blank" rel="noreferrer">{p.display_name} ↗</a></span>)}{shown.length > 0 && ', or another of the '}{shown.length > 0 && `${providers.data?.length} providers.`}
          <br /><span className="quiet">With <code>aikeysd dev</code>, any made-up key does: a stand-in on this machine answers.</span></li>
        <li><b>Add it here.</b> It is sealed before it is stored, and nobody can read it back. <button type="button" className="primary" onClick={onAdd}>Add key</button></li>
        <li><b>Send a request</b> to the gateway as you would to the provider, with your own API key instead of the provider’s. The page of the key has the command.</li>
      </ol>
    </Panel>
  );
}

/** How to send the first request that a key serves. */
export function FirstRequest({ provider }: { provider: string }) {
  const request = 'curl -sSN "$AGENTROUTER_GATEWAY_URL/openai/chat/completions" \\\n  --oauth2-bearer "$AGENTROUTER_API_KEY" -H \'Content-Type: application/json\' \\\n'
    + '  -d \'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Hello"}]}\'';
  const guide = <a href="/docs/guides/gateway#point-the-sdks-at-it" target="_blank" rel="noreferrer">how to point an SDK at the gateway ↗</a>;
  return (
    <div className="panel-body">
      {provider === 'openai' ? (
        <>
          <p>Send the first one, in a terminal:</p>
          <Copyable label="curl" text={request} />
          <p className="hint">With <code>aikeysd dev</code>, load both variables first, in the folder where it was started: <code>. data/session.env</code>. Or see {guide}.</p>
        </>
      ) : <p>To send the first one, see {guide}.</p>}
    </div>
  );
}
