// Times in words.

/** How long ago, or until when, in one unit: "4 s", "3 min", "2 h", "91 d". */
export function span(ms: number): string {
  const s = Math.abs(ms) / 1000;
  if (s < 10) return `${s < 1 ? 0 : Math.round(s)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 90 * 60) return `${Math.round(s / 60)} min`;
  if (s < 36 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

/** "just now", "4 s ago", "in 3 d". */
export function relative(at: string | number | Date, now: number): string {
  const ms = now - new Date(at).getTime();
  if (Math.abs(ms) < 1500) return 'just now';
  return ms > 0 ? `${span(ms)} ago` : `in ${span(ms)}`;
}

/** The exact time in the reader's zone, for titles. */
export function exact(at: string | number | Date): string {
  return new Date(at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'long' });
}

/** A value of an input of type datetime-local, in the reader's zone. */
export function toLocalInput(at: Date): string {
  const two = (n: number) => String(n).padStart(2, '0');
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:${two(at.getMinutes())}`;
}
