// What one does on a page, as commands for a terminal. No command has a secret in it.

export interface Command { label: 'curl' | 'tare'; text: string }

/** Quotes a word for a POSIX shell, unless it needs none. */
export function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A request to the project as curl, with the credential from the environment. */
export function curl(origin: string, method: string, path: string, body?: unknown): Command {
  const lines = [`curl -sS${method === 'GET' ? '' : ` -X ${method}`} ${quote(origin + path)} --oauth2-bearer "$AGENTROUTER_API_KEY"`];
  if (body !== undefined) lines.push("-H 'Content-Type: application/json'", `-d ${quote(JSON.stringify(body))}`);
  return { label: 'curl', text: lines.join(' \\\n  ') };
}

/** A command of tare; undefined and empty options are left out. */
export function tare(words: string[], options: Record<string, string | undefined> = {}): Command {
  const all = ['tare', 'api', ...words.map(quote)];
  for (const [name, value] of Object.entries(options)) {
    if (value) all.push(`--${name} ${quote(value)}`);
  }
  return { label: 'tare', text: all.join(' ') };
}

export function projectPath({ customer_id, project_id }: { customer_id: string; project_id: string }, rest: string): string {
  return `/v1/customers/${customer_id}/projects/${project_id}${rest}`;
}

/** A query string of what is set. */
export function query(values: Record<string, string | undefined>): string {
  const set = Object.entries(values).filter(([, v]) => v) as [string, string][];
  return set.length ? `?${new URLSearchParams(set)}` : '';
}
