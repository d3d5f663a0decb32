/** Makes an error from an answer that is not a success. */

import * as errors from './errors.js';
import type { FieldError } from './types.js';

/** The parts of an answer that the transport keeps. */
export interface Answer {
  status: number;
  headers: Headers;
  text: string;
}

const classes = new Map<string, typeof errors.APIError>([
  ['invalid_argument', errors.InvalidArgumentError],
  ['unauthenticated', errors.UnauthenticatedError],
  ['permission_denied', errors.PermissionDeniedError],
  ['not_found', errors.NotFoundError],
  ['already_exists', errors.AlreadyExistsError],
  ['failed_precondition', errors.FailedPreconditionError],
  ['resource_exhausted', errors.ResourceExhaustedError],
  ['unavailable', errors.UnavailableError],
  ['internal', errors.InternalError],
]);

/** The code for a status, for an answer that has no code, or one that this version does not know. */
function codeOf(status: number): string {
  switch (status) {
    case 401:
      return 'unauthenticated';
    case 403:
      return 'permission_denied';
    case 404:
      return 'not_found';
    case 409:
      return 'failed_precondition';
    case 429:
      return 'resource_exhausted';
    case 502:
    case 503:
    case 504:
      return 'unavailable';
    default:
      return status < 500 ? 'invalid_argument' : 'internal';
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Parses a text as a JSON object, and passes its strings through a function if there is one. Returns undefined for other texts. */
export function parseObject(text: string, pass?: (text: string) => string): Record<string, unknown> | undefined {
  const revive = pass && ((_: string, value: unknown): unknown => (typeof value === 'string' ? pass(value) : value));
  try {
    const value: unknown = JSON.parse(text, revive);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The whole seconds of a Retry-After. */
export function retryAfterOf(headers: Headers): number | undefined {
  const text = headers.get('retry-after')?.trim() ?? '';
  return /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}

export const requestIdOf = (headers: Headers): string | undefined => headers.get('x-request-id') ?? undefined;

const isFieldError = (value: unknown): value is FieldError =>
  isObject(value) && typeof value['field'] === 'string' && typeof value['message'] === 'string';

/** The error in an answer, with secrets hidden: a proxy's answer may repeat the request. */
export function errorOf({ status, headers, text }: Answer, hide: (text: string) => string): errors.APIError {
  const problem = parseObject(text, hide);
  const read = (name: string): string | undefined => {
    const value = problem?.[name];
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const byStatus = codeOf(status);
  const code = read('code') ?? byStatus;
  const faults = problem?.['errors'];
  const Class = classes.get(code) ?? classes.get(byStatus) ?? errors.APIError;
  return new Class({
    status,
    code,
    type: read('type'),
    title: read('title'),
    detail: read('detail') ?? read('title') ?? 'the answer does not say why',
    requestId: read('request_id') ?? requestIdOf(headers),
    errors: Array.isArray(faults) ? faults.filter(isFieldError) : [],
    retryAfter: retryAfterOf(headers),
    problem,
  });
}
