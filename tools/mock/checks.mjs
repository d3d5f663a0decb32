// Checks requests against the document. What it finds is told in the document's words and never in those of the
// request, which may be a secret in the wrong place: as the service does.

import addFormats from 'ajv-formats';
import Ajv from 'ajv';
import { parseDocument } from 'yaml';
import { resolve } from './document.mjs';

/** The most that a body may hold, in bytes. */
export const maxBody = 64 << 10;

/** Makes a function of a schema of the document that returns what is wrong with a value, as ajv's errors. */
export function schemasOf(document) {
  const ajv = new Ajv({ allErrors: true, strict: false, verbose: true, formats: { password: true } });
  addFormats(ajv, ['date-time']);
  ajv.addSchema(document, 'document');
  return (schema) => {
    const reference = schema.$ref ? { $ref: `document${schema.$ref}` } : rebase(schema);
    const validate = ajv.compile(reference);
    return (value) => (validate(value) ? [] : validate.errors);
  };
}

/** A copy of a schema whose references lead to the document from anywhere. */
function rebase(schema) {
  return JSON.parse(JSON.stringify(schema), (key, value) =>
    key === '$ref' && typeof value === 'string' && value.startsWith('#') ? `document${value}` : value,
  );
}

/** Returns a function that checks a request of an operation, and returns the fields at fault. */
export function checkerOf(document, operation, compile) {
  const checks = operation.parameters.map((p) => {
    return { ...p, validate: compile(p.schema), schema: resolve(document, p.schema) };
  });
  const inPlace = (place) => checks.filter((p) => p.in === place);
  const paths = inPlace('path');
  const queries = inPlace('query');
  const headers = inPlace('header');
  const body = operation.body && { validate: compile(operation.body), schema: operation.body };
  return (request) => {
    const values = request.path.match(operation.pattern).slice(1);
    const names = [...operation.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
    const fields = paths.flatMap((p) => checkParameter(p, [values[names.indexOf(p.name)]]));
    fields.push(...headers.flatMap((p) => checkParameter(p, request.headers[p.name.toLowerCase()] ?? [])));
    fields.push(...checkQuery(queries, request.query));
    if (body) {
      fields.push(...checkBody(document, body, request.body));
    }
    const first = new Map(fields.toReversed().map((field) => [field.field, field]));
    return [...first.values()].toSorted((a, b) => (a.field < b.field ? -1 : 1));
  };
}

function checkParameter(parameter, values) {
  const say = (message) => [{ field: parameter.name, message }];
  if (values.length === 0) {
    return parameter.required ? say('is required') : [];
  }
  if (values.length > 1) {
    return say('is given more than once');
  }
  let [value] = values;
  if (parameter.schema.type === 'integer') {
    if (!/^(0|-?[1-9]\d{0,8})$/.test(value)) {
      return say('must be a whole number');
    }
    value = Number(value);
  }
  if (parameter.schema.type === 'boolean') {
    if (value !== 'true' && value !== 'false') {
      return say('must be true or false');
    }
    value = value === 'true';
  }
  const [error] = parameter.validate(value);
  return error ? say(messageOf(error)) : [];
}

function checkQuery(parameters, query) {
  try {
    decodeURIComponent(query);
  } catch {
    return [{ field: 'query', message: 'is not a well-formed query string' }];
  }
  const given = new URLSearchParams(query);
  const names = parameters.map((p) => p.name).toSorted();
  const fields = parameters.flatMap((p) => checkParameter(p, given.getAll(p.name)));
  if ([...given.keys()].some((name) => !names.includes(name))) {
    const known = names.length ? `it knows ${names.join(', ')}` : 'it takes none';
    fields.push({ field: 'query', message: `has a parameter that this method does not know; ${known}` });
  }
  return fields;
}

function checkBody(document, body, bytes) {
  const say = (message) => [{ field: 'body', message }];
  if (bytes.length === 0) {
    return say('is empty; send a JSON object');
  }
  let text;
  let value;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch {
    return say('is not one well-formed JSON document in UTF-8');
  }
  // JSON.parse takes the last of two equal members; YAML, of which JSON is a part, has none twice.
  if (parseDocument(text).errors.some((error) => error.code === 'DUPLICATE_KEY')) {
    return say('has a member twice');
  }
  return body.validate(value).map((error) => ({
    field: fieldOf(document, body.schema, error),
    message: messageOf(error),
  }));
}

/** The field at fault, as far as the document names it: what it does not name may be somebody's secret. */
function fieldOf(document, schema, error) {
  const steps = error.instancePath.split('/').slice(1);
  if (error.keyword === 'required') {
    steps.push(error.params.missingProperty);
  }
  const known = [];
  for (const step of steps) {
    schema = resolve(document, resolve(document, schema)?.properties?.[step]);
    if (!schema) {
      break;
    }
    known.push(step);
  }
  return known.join('.') || 'body';
}

function messageOf({ keyword, params, parentSchema, data }) {
  switch (keyword) {
    case 'required':
      return 'is required';
    case 'additionalProperties': {
      const known = Object.keys(parentSchema.properties ?? {}).toSorted();
      return `has a member that this method does not know; it knows ${known.join(', ')}`;
    }
    case 'type':
      return data === null ? 'must not be null' : `must be ${/^[aeiou]/.test(params.type) ? 'an' : 'a'} ${params.type}`;
    case 'enum':
      return `must be one of ${params.allowedValues.join(', ')}`;
    case 'minLength':
      return params.limit === 1 ? 'must not be empty' : `must have at least ${params.limit} characters`;
    case 'maxLength':
      return `must have at most ${params.limit} characters`;
    case 'minimum':
      return `must be at least ${params.limit}`;
    case 'maximum':
      return `must be at most ${params.limit}`;
    case 'minProperties':
      return `must have at least ${params.limit} ${params.limit === 1 ? 'member' : 'members'}`;
    case 'maxProperties':
      return `must have at most ${params.limit} members`;
    case 'pattern':
      return parentSchema['x-message'] ?? `must match ${params.pattern}`;
    default:
      return 'is not as described';
  }
}
