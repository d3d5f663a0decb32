// Rules of our own for OpenAPI documents, for Redocly CLI (https://redocly.com/docs/cli/custom-plugins). Each one is a
// visitor of the document's nodes; what it asks for, and why, stands above it.

const PROBLEM = 'application/problem+json';

// 3.0.3 and nothing later: on 3.1 the request validator repeats rejected values, secrets among them, in its errors.
function Version() {
  return {
    Root(root, ctx) {
      if (root.openapi !== '3.0.3') {
        ctx.report({ message: 'The document must be OpenAPI 3.0.3.', location: ctx.location.child('openapi') });
      }
    },
  };
}

// Pages and clients group operations by their tag.
function OperationTag() {
  return {
    Operation(operation, ctx) {
      if (!operation.tags?.length) {
        ctx.report({ message: 'The operation must have a tag.', location: ctx.location.key() });
      }
    },
  };
}

// A reader copies a sample before reading anything: one for each way to call us, told apart by `label`.
function CodeSamples({ labels }) {
  return {
    Operation(operation, ctx) {
      const samples = operation['x-codeSamples'] ?? [];
      const present = samples.filter((s) => s.lang && s.source?.trim()).map((s) => s.label);
      const missing = labels.filter((label) => !present.includes(label));
      if (missing.length) {
        ctx.report({
          message: `x-codeSamples must have a sample with lang, source and label for: ${missing.join(', ')}.`,
          location: ctx.location.key(),
        });
      }
    },
  };
}

// Whatever goes wrong, a client parses one shape (RFC 9457).
function ProblemResponses() {
  return {
    Operation: {
      Responses(responses, ctx) {
        const codes = Object.keys(responses);
        if (!codes.some((code) => code === 'default' || code.startsWith('4'))) {
          ctx.report({ message: 'The operation must have a `default` or a 4xx response.' });
        }
      },
      Response(response, ctx) {
        const code = String(ctx.key);
        if (code !== 'default' && !/^[45]/.test(code)) return;
        const types = Object.keys(response.content ?? {});
        if (types.length !== 1 || types[0] !== PROBLEM) {
          ctx.report({ message: `Response ${code} must have content of the one type ${PROBLEM}.` });
        }
      },
    },
  };
}

// Calls visit for a schema and for all that are in it, each once, through references. (Redocly's nested visitors stop
// at the outermost schema.)
function walk(schema, location, ctx, seen, visit) {
  if (!schema || typeof schema !== 'object') return;
  if (schema.$ref) ({ node: schema, location } = ctx.resolve(schema));
  if (!schema || seen.has(schema)) return;
  seen.add(schema);
  visit(schema, location);
  const into = (child, ...path) => walk(child, location.child(path), ctx, seen, visit);
  for (const [name, property] of Object.entries(schema.properties ?? {})) into(property, 'properties', name);
  for (const key of ['items', 'additionalProperties', 'not']) into(schema[key], key);
  for (const key of ['allOf', 'anyOf', 'oneOf']) (schema[key] ?? []).forEach((part, i) => into(part, key, i));
}

// A request that has no bound is a way to run us out of memory; the server validates against these.
function RequestBounds() {
  const seen = new Set();
  const missing = (schema) => {
    if (schema.enum) return undefined;
    switch (schema.type) {
      case 'string': // the form of a time bounds its length, and generators of clients take no other bound on one
        return schema.maxLength === undefined && schema.format !== 'date-time' && 'maxLength';
      case 'integer':
      case 'number':
        return (schema.minimum === undefined || schema.maximum === undefined) && 'minimum and maximum';
      case 'array':
        return schema.maxItems === undefined && 'maxItems';
      case 'object':
        return schema.additionalProperties && schema.maxProperties === undefined && 'maxProperties';
    }
  };
  const check = ({ schema }, ctx) =>
    walk(schema, ctx.location.child('schema'), ctx, seen, (node, location) => {
      const bound = missing(node);
      if (bound) ctx.report({ message: `In a request, type ${node.type} must have ${bound}.`, location });
    });
  return { RequestBody: { MediaType: check }, Parameter: check };
}

// The router hands over what lies between two slashes, escapes and all; only the pattern says what an id is.
function PathParameterPattern() {
  return {
    Parameter(parameter, ctx) {
      if (parameter.in !== 'path') return;
      const schema = ctx.resolve(parameter.schema ?? {}).node ?? {};
      const isBounded = schema.type === 'integer' && schema.minimum !== undefined && schema.maximum !== undefined;
      if (!isBounded && !schema.enum && !schema.pattern?.match(/^\^.*\$$/)) {
        ctx.report({
          message: `Path parameter ${parameter.name} must have an enum, or a pattern anchored at both ends.`,
          location: ctx.location.child('schema'),
        });
      }
    },
  };
}

// A field without a description is a field that a reader must guess at. A $ref is described by what it names.
function PropertyDescription() {
  return {
    SchemaProperties(properties, ctx) {
      for (const [name, property] of Object.entries(properties)) {
        const described = property.description ?? ctx.resolve(property).node?.description;
        if (!described?.trim()) {
          const location = ctx.location.child(name).key();
          ctx.report({ message: `Property ${name} must have a description.`, location });
        }
      }
    },
  };
}

// Examples are what mock servers answer and what readers copy; the linter validates them against their schemas.
function MediaTypeExample() {
  return {
    MediaType(media, ctx) {
      if (media.example === undefined && !Object.keys(media.examples ?? {}).length) {
        ctx.report({ message: 'A request or response body must have an example.', location: ctx.location.key() });
      }
    },
  };
}

// The public API takes secrets and never gives one back. An API key of its own is shown once, by the method that makes it.
function NoSecretInResponse() {
  const seen = new Set();
  return {
    Response: {
      MediaType({ schema }, ctx) {
        walk(schema, ctx.location.child('schema'), ctx, seen, (node, location) => {
          if (node['x-secret'] && !node['x-shown-once']) ctx.report({ message: 'A response must not have a field marked x-secret.', location });
        });
      },
    },
  };
}

module.exports = {
  version: Version,
  'operation-tag': OperationTag,
  'code-samples': CodeSamples,
  'problem-responses': ProblemResponses,
  'request-bounds': RequestBounds,
  'path-parameter-pattern': PathParameterPattern,
  'property-description': PropertyDescription,
  'media-type-example': MediaTypeExample,
  'no-secret-in-response': NoSecretInResponse,
};
