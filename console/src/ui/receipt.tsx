// The receipt of a revocation, a disabling or the removal of a member, live while data planes confirm.
import { useEffect, useRef, useState } from 'react';
import { confirmedPlanes, namesOf, receiptSentence, stoppedAt, stoppedBy, type AnyReceipt } from '../logic/sentences.ts';
import { relative } from '../logic/time.ts';
import { Copy, download, Panel, Tone, useNow } from './basics.tsx';

export function ReceiptPanel({ receipt, of }: { receipt: AnyReceipt; of: { key_id: string } | { user_id: string } }) {
  const pending = receipt.state === 'pending';
  const now = useNow(pending ? 100 : 10_000);
  const at = stoppedAt(receipt);
  const ofMember = 'user_id' in of;
  const what = ofMember ? 'Removed' : 'revoked_at' in receipt ? 'Revoked' : 'Disabled';
  const started = Date.parse(at);
  const limit = receipt.complete_by ? Date.parse(receipt.complete_by) - started : 0;
  const elapsed = Math.max(0, now - started);
  const missing = receipt.data_planes - receipt.acknowledged;
  const json = () => JSON.stringify({ ...of, receipt }, null, 2);
  return (
    <Panel title="Receipt" note={pending
      ? <Tone tone="warn">pending · complete by {new Date(receipt.complete_by ?? at).toLocaleTimeString()}</Tone>
      : <Tone tone="ok">complete</Tone>}>
      <p className="receipt-sentence">
        <span aria-hidden="true"><b>{what} {relative(at, now)}</b> by {stoppedBy(receipt)}. {receiptSentence(receipt, now)}</span>
        <Announce text={`${what} by ${stoppedBy(receipt)}. ${receiptSentence(receipt, started)}`} settled={!pending} />
      </p>
      <ol className="timeline">
        <li><span className="quiet">0 ms</span><b>database</b><span>{what === 'Revoked' ? 'Revocation' : ofMember ? 'Removal' : 'Change'} committed. No data plane can fetch {ofMember ? `a key for ${of.user_id}` : 'the key'} any more.</span></li>
        {confirmedPlanes(receipt).map(({ name, ms, confirmation: a }) => (
          <li key={name}>
            <span className="quiet">{ms !== undefined ? `${ms} ms` : ''}</span>
            <b>{name}{a && a.acknowledged > 1 ? ` × ${a.acknowledged}` : ''}</b>
            <span><Tone tone="ok">confirmed</Tone>{a?.in_flight ? <span className="quiet"> · ended {a.in_flight} request{a.in_flight === 1 ? '' : 's'} in progress</span> : null}</span>
          </li>
        ))}
        {missing > 0 && (
          <li>
            <span className="quiet">{pending ? `${(elapsed / 1000).toFixed(1)} s` : ''}</span>
            <b>{namesOf(receipt, pending ? 'waiting' : 'lease_expired') || `${missing} more`}</b>
            <span>
              {pending ? <Tone tone="warn">no answer yet; {missing === 1 ? 'its lease ends' : 'their leases end'} in {(Math.max(0, limit - elapsed) / 1000).toFixed(1)} s</Tone>
                : <Tone tone="quiet">did not answer; {missing === 1 ? 'its lease has' : 'their leases have'} ended, and with {missing === 1 ? 'it' : 'them'} the use of the key</Tone>}
              {pending && <progress max={limit} value={Math.min(elapsed, limit)} aria-label="Time until the lease ends" />}
            </span>
          </li>
        )}
      </ol>
      <div className="bar panel-foot">
        <Copy text={json} label="Copy as JSON" />
        <button type="button" onClick={() => download(`receipt-${ofMember ? of.user_id : of.key_id}.json`, 'application/json', json())}>Download</button>
        <button type="button" className="only-wide" onClick={() => print()}>Print</button>
      </div>
    </Panel>
  );
}

/** Text for screen readers that changes often: they hear at most one change in two seconds, and the last one. */
function Announce({ text, settled }: { text: string; settled: boolean }) {
  const [heard, setHeard] = useState(text);
  const last = useRef(0);
  useEffect(() => {
    const wait = settled ? 0 : Math.max(0, last.current + 2000 - Date.now());
    const timer = setTimeout(() => {
      last.current = Date.now();
      setHeard(text);
    }, wait);
    return () => clearTimeout(timer);
  }, [text, settled]);
  return <span role="status" className="unseen">{heard}</span>;
}
