// The mock server: it checks each request as the document says, and answers with an example.

import { createServer } from 'node:http';
import { choose, preferences } from './answers.mjs';
import { checkerOf, maxBody, schemasOf } from './checks.mjs';

const readable = 'Allow, Location, Preference-Applied, Retry-After, WWW-Authenticate, X-Request-Id';

/** Makes a server of a document that load has read. `log` gets a line for each answer, without a word of the request. */
export function createMock({ document, operations }, log = () => {}) {
  const compile = schemasOf(document);
  const checks = new Map(operations.map((operation) => [operation, checkerOf(document, operation, compile)]));
  const failure = failuresOf(document);

  const answer = async (incoming) => {
    const [given, query = ''] = splitOnce(incoming.url, '?');
    const path = canonical(given);
    const there = operations.filter((operation) => operation.pattern.test(path));
    if (there.length === 0) {
      const detail = 'There is no such path; the API begins at /v1, and /openapi.yaml describes it.';
      return failure('NotFound', { type: '/problems/no-such-path', title: 'No such path', detail });
    }
    const operation = there.find(({ method }) => method === incoming.method);
    if (!operation) {
      return methodNotAllowed(failure, there);
    }
    if (!operation.open && !/^bearer +[!-~]+$/i.test(incoming.headers.authorization ?? '')) {
      return { operation, ...operation.answers.find(({ status }) => status === 401) };
    }
    const request = { path, query, headers: incoming.headersDistinct };
    if (operation.body) {
      if (!isJSON(incoming.headers)) {
        return { operation, ...failure('UnsupportedMediaType') };
      }
      request.body = await read(incoming);
      if (!request.body) {
        return { operation, ...failure('BodyTooLarge') };
      }
    }
    const fields = checks.get(operation)(request);
    if (fields.length > 0) {
      return { operation, ...failure('InvalidArgument', { errors: fields }) };
    }
    const preferred = preferences(incoming.headers.prefer);
    const { answer: chosen, fault } = choose(operation, preferred);
    if (fault) {
      return { operation, ...failure('InvalidArgument', { errors: [fault] }) };
    }
    const applied = Object.entries(preferred).map(([name, value]) => `${name}=${value}`).join(', ');
    return { operation, ...chosen, headers: { ...chosen.headers, ...(applied && { 'Preference-Applied': applied }) } };
  };

  return createServer(async (incoming, outgoing) => {
    outgoing.setHeader('Access-Control-Allow-Origin', '*');
    outgoing.setHeader('Access-Control-Expose-Headers', readable);
    if (incoming.method === 'OPTIONS' && incoming.headers['access-control-request-method']) {
      preflight(incoming, outgoing);
      return;
    }
    try {
      const given = await answer(incoming);
      send(outgoing, given, failure.requestId);
      log(lineOf(incoming.method, given));
    } catch (error) {
      outgoing.destroy();
      if (!incoming.destroyed) {
        log(`internal error: ${error.stack}`);
      }
    }
  });
}

function isJSON(headers) {
  const type = /^application\/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?$/i;
  return type.test(headers['content-type'] ?? '') && /^(identity)?$/i.test(headers['content-encoding'] ?? '');
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

/** The document's spelling of a path: `/v1/aikeys` and empty segments stand for the session's own project. */
function canonical(path) {
  return path
    .replace(/^\/v1\/aikeys(?=\/|$)/, '/v1/customers/-/projects/-/aikeys')
    .replace(/^\/v1\/customers\/\/projects\//, '/v1/customers/-/projects/')
    .replace(/^(\/v1\/customers\/[^/]+\/projects\/)\//, '$1-/');
}

/** Returns a function that makes an answer of one of the document's common failures. */
function failuresOf(document) {
  const failure = (name, changes = {}) => {
    const [[type, media]] = Object.entries(document.components.responses[name].content);
    const { errors, ...body } = media.example;
    return { status: body.status, headers: {}, type, body: { ...body, ...changes } };
  };
  failure.requestId = document.components.responses.Internal.content['application/problem+json'].example.request_id;
  return failure;
}

function methodNotAllowed(failure, there) {
  const answer = failure('InvalidArgument', {
    type: '/problems/method-not-allowed',
    title: 'Method not allowed',
    status: 405,
    detail: 'This path does not have that method; the header Allow lists those that it has.',
  });
  const allowed = ['OPTIONS', ...there.map(({ method }) => method)].join(', ');
  return { ...answer, status: 405, headers: { Allow: allowed } };
}

/** The whole body, or undefined where it is over the limit. */
async function read(incoming) {
  const chunks = [];
  let size = 0;
  for await (const chunk of incoming) {
    size += chunk.length;
    if (size <= maxBody) {
      chunks.push(chunk);
    }
  }
  return size <= maxBody ? Buffer.concat(chunks) : undefined;
}

/** Lets scripts of any page call: there is nothing here to protect. `*` would leave out Authorization. */
function preflight(incoming, outgoing) {
  outgoing.setHeader('Access-Control-Allow-Methods', 'GET, PUT, POST, DELETE, PATCH');
  outgoing.setHeader('Access-Control-Allow-Headers', incoming.headers['access-control-request-headers'] ?? '');
  outgoing.setHeader('Access-Control-Max-Age', '600');
  outgoing.setHeader('Vary', 'Access-Control-Request-Headers');
  outgoing.writeHead(204).end();
}

function send(outgoing, { status, headers, type, body }, requestId) {
  outgoing.setHeader('Cache-Control', 'no-store');
  outgoing.setHeader('X-Request-Id', body?.request_id ?? requestId);
  for (const [name, value] of Object.entries(headers)) {
    outgoing.setHeader(name, value);
  }
  if (type === undefined) {
    outgoing.writeHead(status).end();
    return;
  }
  const text = JSON.stringify(body);
  outgoing.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(text) }).end(text);
}

function lineOf(method, { status, operation, name, body }) {
  const faults = (body?.errors ?? []).map(({ field, message }) => `${field} ${message}`).join('; ');
  const what = operation ? `${operation.method} ${operation.path}` : method;
  const said = status >= 400 ? faults || name || body?.detail : name;
  return [status, what, said && `(${said})`].filter(Boolean).join(' ');
}
