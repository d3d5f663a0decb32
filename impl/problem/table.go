package problem

import (
	"context"
	"errors"
	"net/http"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// The sentinels of the HTTP layer itself.
var (
	ErrInvalid          = errors.New("invalid argument")
	ErrTooLarge         = errors.New("body too large")
	ErrMediaType        = errors.New("unsupported media type")
	ErrNoRoute          = errors.New("no such path")
	ErrMethodNotAllowed = errors.New("method not allowed")
	ErrTooManyRequests  = errors.New("too many requests")
	// ErrUnrecorded comes along with a refusal that could not be written to the audit trail.
	ErrUnrecorded = errors.New("refusal not recorded in the audit trail")
	ErrNotReady   = errors.New("not ready")
	ErrInternal   = errors.New("internal")
)

// The sentinels of the secrets service. Those that say why an envelope does not open are of the sealer too, for which they
// are faults of ours: who asks the service is told, who asks for a key is not.
var (
	ErrOverMiB           = errors.New("body larger than 1 MiB")
	ErrClientNotAllowed  = errors.New("client not allowed")
	ErrDoesNotOpen       = errors.New("does not open")
	ErrUnknownKEK        = errors.New("unknown key-encryption key")
	ErrMalformedEnvelope = errors.New("malformed envelope")
	ErrBusy              = errors.New("busy")
)

type row struct {
	sentinel error
	status   int
	code     string
	slug     string
	title    string
	detail   string
}

var internal = row{ErrInternal, http.StatusInternalServerError, "internal", "internal", "Internal error",
	"Something failed on our side; quote the request_id to support."}

// The first row whose sentinel the error wraps is the answer; among rows of one status the first also answers for
// errors that carry that status alone.
var table = []row{
	{ErrInvalid, http.StatusBadRequest, "invalid_argument", "invalid-argument", "Invalid argument",
		"The request is not as this method describes it; see errors."},
	{ErrTooLarge, http.StatusRequestEntityTooLarge, "invalid_argument", "body-too-large", "Body too large",
		"The body is over the limit of 64 KiB."},
	{ErrOverMiB, http.StatusRequestEntityTooLarge, "invalid_argument", "body-too-large", "Body too large",
		"The body is over the limit of 1 MiB."},
	{ErrMediaType, http.StatusUnsupportedMediaType, "invalid_argument", "unsupported-media-type", "Unsupported media type",
		"Send the body as application/json in UTF-8, without a content encoding."},
	{auth.ErrUnauthenticated, http.StatusUnauthorized, "unauthenticated", "unauthenticated", "Unauthenticated",
		"Send one valid API key or session token in the header Authorization: Bearer <token>."},
	{models.ErrSessionEnded, http.StatusUnauthorized, "unauthenticated", "unauthenticated", "Unauthenticated",
		"This API key has been revoked or has expired; ask for a new one."},
	{models.ErrDataPlaneEnded, http.StatusUnauthorized, "unauthenticated", "unauthenticated", "Unauthenticated",
		"This data plane's credential has been revoked or has expired; ask its operator for a new one."},
	{models.ErrNotMember, http.StatusForbidden, "permission_denied", "permission-denied", "Permission denied",
		"You are not a member of this project; its owners can add users of their own customer."},
	{models.ErrForbidden, http.StatusForbidden, "permission_denied", "permission-denied", "Permission denied",
		"This needs an owner of the project. A member may register and revoke keys of their own, with user_scope."},
	{models.ErrNotServed, http.StatusForbidden, "permission_denied", "customer-not-served", "Customer not served",
		"This data plane may not serve that customer."},
	{resolution.ErrKeyRevoked, http.StatusForbidden, "permission_denied", "key-revoked", "Key revoked",
		"This key has been revoked; no data plane may use it."},
	{ErrClientNotAllowed, http.StatusForbidden, "permission_denied", "client-not-allowed", "Client not allowed",
		"The operator of the secrets service has not allowed this client to do that."},
	{models.ErrNotFound, http.StatusNotFound, "not_found", "not-found", "Not found",
		"There is no such thing here, or none that you may see."},
	{ErrNoRoute, http.StatusNotFound, "not_found", "no-such-path", "No such path",
		"There is no such path; the API begins at /v1, and /openapi.yaml describes it."},
	{resolution.ErrNoKey, http.StatusNotFound, "not_found", "no-key", "No key",
		"No active key of this provider may serve this caller; register one, or look at the project's policy."},
	{resolution.ErrUserKeyRequired, http.StatusNotFound, "not_found", "user-key-required", "User key required",
		"The project's policy requires a key of the user's own for this provider, and they have none."},
	{ErrMethodNotAllowed, http.StatusMethodNotAllowed, "invalid_argument", "method-not-allowed", "Method not allowed",
		"This path does not answer that method; the header Allow lists those that it does."},
	{models.ErrAlreadyExists, http.StatusConflict, "already_exists", "already-exists", "Already exists",
		"An active key of this provider and scope has that name already; choose another name, or revoke that key."},
	{models.ErrLastOwner, http.StatusConflict, "failed_precondition", "failed-precondition", "Failed precondition",
		"A project keeps at least one owner; make somebody else an owner first."},
	{models.ErrIdempotencyReuse, http.StatusUnprocessableEntity, "failed_precondition", "idempotency-key-reused",
		"Idempotency key reused", "This Idempotency-Key was used for another request; send a new one."},
	{resolution.ErrCallerUnauthenticated, http.StatusUnprocessableEntity, "unauthenticated", "caller-unauthenticated",
		"Caller unauthenticated", "The caller's API key or session token is not valid."},
	{ErrDoesNotOpen, http.StatusUnprocessableEntity, "failed_precondition", "does-not-open", "Does not open",
		"The envelope does not open under this binding."},
	{ErrUnknownKEK, http.StatusUnprocessableEntity, "failed_precondition", "unknown-kek", "Unknown key-encryption key",
		"The envelope names a key-encryption key that is not in this namespace, or is retired."},
	{ErrMalformedEnvelope, http.StatusUnprocessableEntity, "failed_precondition", "malformed-envelope", "Malformed envelope",
		"The bytes are no envelope that this version can read."},
	{ErrTooManyRequests, http.StatusTooManyRequests, "resource_exhausted", "resource-exhausted", "Too many requests",
		"You have sent too many requests; try again after the time in Retry-After."},
	{ErrNotReady, http.StatusServiceUnavailable, "unavailable", "unavailable", "Unavailable",
		"The service is starting, or waiting for its database; try again after the time in Retry-After."},
	{context.Canceled, http.StatusServiceUnavailable, "unavailable", "unavailable", "Unavailable",
		"The request was given up before it was answered."},
	{models.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", "unavailable", "Unavailable",
		"The database can't serve this at the moment; try again after the time in Retry-After."},
	{sealer.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", "unavailable", "Unavailable",
		"The secrets service can't be reached at the moment; try again after the time in Retry-After."},
	{ErrBusy, http.StatusServiceUnavailable, "unavailable", "unavailable", "Unavailable",
		"The secrets service can't serve this at the moment; try again after the time in Retry-After."},
	// Of its own type, so that data planes don't take it for a failure of the service.
	{auth.ErrIssuerUnavailable, http.StatusServiceUnavailable, "unavailable", "issuer-unavailable", "Issuer unavailable",
		"The issuer of session tokens can't be reached at the moment; try again after the time in Retry-After."},
	internal,
}
