// The audit trail as a table.
import type { Event } from '../api/client.ts';

/** A cell, quoted. A spreadsheet would run what begins like a formula, so that gets an apostrophe in front. */
export function cell(value: unknown): string {
  let text = value === undefined || value === null ? '' : typeof value === 'object' ? JSON.stringify(value) : String(value);
  if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return `"${text.replaceAll('"', '""')}"`;
}

export function toCSV(events: readonly Event[]): string {
  const columns: [string, (e: Event) => unknown][] = [
    ['at', (e) => e.at], ['type', (e) => e.type], ['outcome', (e) => e.outcome], ['actor', (e) => e.actor.user_id], ['method', (e) => e.actor.method],
    ['source_ip', (e) => e.source_ip], ['key_id', (e) => e.key_id], ['provider', (e) => e.provider], ['member_id', (e) => e.member_id],
    ['role', (e) => e.role], ['token_id', (e) => e.token_id], ['repeated', (e) => e.repeated], ['before', (e) => e.before], ['after', (e) => e.after],
    ['request_id', (e) => e.request_id], ['id', (e) => e.id],
  ];
  return [columns.map(([name]) => cell(name)), ...events.map((e) => columns.map(([, value]) => cell(value(e))))].map((row) => row.join(',')).join('\r\n') + '\r\n';
}
