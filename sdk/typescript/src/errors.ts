import type { ErrorCode, FieldError } from './types.js';

/** The base of all errors that this package throws. None of them shows the API key or a provider's key. */
export class AgentRouterError extends Error {
  override get name(): string {
    return 'AgentRouterError';
  }
}

/** The client can't be made from these options, or the call from these arguments. Nothing was sent. */
export class ArgumentError extends AgentRouterError {
  override get name(): string {
    return 'ArgumentError';
  }
}

/** The service could not be reached, or the connection broke before the answer was complete. */
export class ConnectionError extends AgentRouterError {
  override get name(): string {
    return 'ConnectionError';
  }
}

/** An attempt took longer than it may. */
export class TimeoutError extends ConnectionError {
  override get name(): string {
    return 'TimeoutError';
  }
}

/** The answer is not one of the API's: a redirect, or a success without a required member. */
export class ResponseError extends AgentRouterError {
  /** The HTTP status; 0 if a browser hides it, as it does for redirects. */
  readonly status: number;
  /** The request's id, to quote to support. */
  readonly requestId: string | undefined;

  constructor(status: number, what: string, requestId: string | undefined) {
    super(`${status}: ${what}${suffix(requestId)}`);
    this.status = status;
    this.requestId = requestId;
  }

  override get name(): string {
    return 'ResponseError';
  }
}

const suffix = (requestId: string | undefined): string => (requestId ? ` (request ${requestId})` : '');

/** The error in an answer. */
export interface ErrorDetails {
  status: number;
  code: ErrorCode;
  detail: string;
  type: string | undefined;
  title: string | undefined;
  requestId: string | undefined;
  errors: FieldError[];
  retryAfter: number | undefined;
  problem: Record<string, unknown> | undefined;
}

/** The service refused the request or failed. Its subclasses go by the problem's `code`, or else by the status. */
export class APIError extends AgentRouterError {
  readonly #problem: Record<string, unknown> | undefined;

  /** The HTTP status. */
  readonly status: number;
  /** A stable code to branch on. */
  readonly code: ErrorCode;
  /** A URI reference that names the kind of problem, more exactly than `code`. */
  readonly type: string | undefined;
  /** The kind of problem in a few words. */
  readonly title: string | undefined;
  /** What went wrong and what to do about it, for people. */
  readonly detail: string;
  /** The request's id, to quote to support. */
  readonly requestId: string | undefined;
  /** The invalid fields. */
  readonly errors: FieldError[];
  /** How many seconds to wait before a retry, if the service says so. */
  readonly retryAfter: number | undefined;

  constructor(of: ErrorDetails) {
    const fields = of.errors.map((e) => `; ${e.field} ${e.message}`).join('');
    super(`${of.status} ${of.code}: ${of.detail}${fields}${suffix(of.requestId)}`);
    this.status = of.status;
    this.code = of.code;
    this.type = of.type;
    this.title = of.title;
    this.detail = of.detail;
    this.requestId = of.requestId;
    this.errors = of.errors;
    this.retryAfter = of.retryAfter;
    this.#problem = of.problem;
  }

  override get name(): string {
    return 'APIError';
  }

  /** The whole problem document, with the fields that this version does not know. */
  get problem(): Record<string, unknown> | undefined {
    return this.#problem;
  }
}

export class InvalidArgumentError extends APIError {
  override get name(): string {
    return 'InvalidArgumentError';
  }
}

export class UnauthenticatedError extends APIError {
  override get name(): string {
    return 'UnauthenticatedError';
  }
}

export class PermissionDeniedError extends APIError {
  override get name(): string {
    return 'PermissionDeniedError';
  }
}

export class NotFoundError extends APIError {
  override get name(): string {
    return 'NotFoundError';
  }
}

export class AlreadyExistsError extends APIError {
  override get name(): string {
    return 'AlreadyExistsError';
  }
}

export class FailedPreconditionError extends APIError {
  override get name(): string {
    return 'FailedPreconditionError';
  }
}

export class ResourceExhaustedError extends APIError {
  override get name(): string {
    return 'ResourceExhaustedError';
  }
}

export class UnavailableError extends APIError {
  override get name(): string {
    return 'UnavailableError';
  }
}

export class InternalError extends APIError {
  override get name(): string {
    return 'InternalError';
  }
}
