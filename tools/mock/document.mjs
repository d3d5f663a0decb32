// Reads an OpenAPI document into the operations that it describes, with nothing left to look up.

import { readFileSync } from 'node:fs';
import { parse } from 'yaml';

const methods = ['get', 'put', 'post', 'delete', 'patch'];

/** Follows a reference within the document. */
export function resolve(document, node) {
  while (node?.$ref !== undefined) {
    const steps = node.$ref.replace(/^#\//, '').split('/');
    node = steps.reduce((at, step) => at?.[step.replaceAll('~1', '/').replaceAll('~0', '~')], document);
  }
  return node;
}

/** Reads the document in a file. */
export function load(file) {
  const document = parse(readFileSync(file, 'utf8'));
  return { document, operations: operationsOf(document) };
}

export function operationsOf(document) {
  const operations = [];
  for (const [path, item] of Object.entries(document.paths)) {
    for (const method of methods.filter((name) => name in item)) {
      const described = item[method];
      const parameters = [...(item.parameters ?? []), ...(described.parameters ?? [])].map((p) => resolve(document, p));
      const body = resolve(document, described.requestBody)?.content['application/json'];
      operations.push({
        id: described.operationId,
        method: method.toUpperCase(),
        path,
        pattern: patternOf(path),
        parameters,
        body: body?.schema,
        open: described.security?.length === 0,
        answers: answersOf(document, described),
      });
    }
  }
  return operations;
}

function patternOf(path) {
  const literal = (text) => text.replace(/[.*+?^$()|[\]\\]/g, '\\$&');
  return new RegExp(`^${path.split(/\{\w+\}/).map(literal).join('([^/]+)')}$`);
}

/** Every answer that the document has an example of: failures last, otherwise in the document's order. */
function answersOf(document, described) {
  const answers = [];
  for (const [code, reference] of Object.entries(described.responses)) {
    if (!/^[1-5]\d\d$/.test(code)) {
      throw new Error(`${described.operationId}: a response must have one status of its own, not ${code}`);
    }
    const response = resolve(document, reference);
    const headers = headersOf(document, response);
    const content = Object.entries(response.content ?? {});
    if (content.length === 0) {
      answers.push({ status: Number(code), headers });
    }
    for (const [type, media] of content) {
      for (const [name, body] of examplesOf(document, media)) {
        answers.push({ status: Number(code), headers, type, name, body, schema: media.schema });
      }
    }
  }
  return answers.sort((a, b) => (a.status >= 400) - (b.status >= 400));
}

function examplesOf(document, media) {
  if (media.example !== undefined) {
    return [[undefined, media.example]];
  }
  return Object.entries(media.examples ?? {}).map(([name, example]) => [name, resolve(document, example).value]);
}

function headersOf(document, response) {
  const headers = {};
  for (const [name, reference] of Object.entries(response.headers ?? {})) {
    const example = resolve(document, reference).example;
    if (example !== undefined) {
      headers[name] = String(example);
    }
  }
  return headers;
}
