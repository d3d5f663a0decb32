// Chooses the example that answers a request, by its Prefer header (RFC 7240): `code=404`, `example=name`, or both.

/** The preferences that a header states, by name; others than ours are ignored, as the RFC has it. */
export function preferences(header = '') {
  const stated = {};
  for (const part of header.split(/[,;]/)) {
    const [, name, value] = part.match(/^\s*(code|example)\s*=\s*"?([^"\s]*)"?\s*$/i) ?? [];
    if (name) {
      stated[name.toLowerCase()] ??= value;
    }
  }
  return stated;
}

/** Returns an operation's answer, or the field at fault where none is as it is preferred. */
export function choose(operation, { code, example }) {
  const list = (values) => [...new Set(values)].join(', ');
  const fault = (message) => ({ fault: { field: 'Prefer', message } });
  let answers = operation.answers;
  if (code !== undefined) {
    answers = answers.filter((answer) => String(answer.status) === code);
    if (answers.length === 0) {
      const known = list(operation.answers.map((answer) => answer.status));
      return fault(`has a code that this method does not answer; it answers ${known}`);
    }
  }
  if (example !== undefined) {
    const known = list(answers.flatMap((answer) => answer.name ?? []));
    answers = answers.filter((answer) => answer.name === example);
    if (answers.length === 0) {
      const those = known ? `there are ${known}` : 'there is none with a name';
      return fault(`has an example that is not there; ${those}`);
    }
  }
  return { answer: answers[0] };
}
