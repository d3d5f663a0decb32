package dataplane

import (
	"net/http"
	"slices"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// problems maps the errors of the packages below to answers. An error of the sealer other than ErrUnavailable is an internal one:
// neither the data plane nor its caller can do anything about it.
var problems = httpapi.Problems(slices.Concat(auth.Problems(), problem.Table{
	{Err: models.ErrNotMember, Status: http.StatusForbidden, Code: "permission_denied", Slug: "permission-denied", Title: "Permission denied",
		Detail: "You are not a member of this project; its owners can add users of their own customer."},
	{Err: models.ErrNotServed, Status: http.StatusForbidden, Code: "permission_denied", Slug: "customer-not-served", Title: "Customer not served",
		Detail: "This data plane may not serve that customer."},
	{Err: resolution.ErrKeyRevoked, Status: http.StatusForbidden, Code: "permission_denied", Slug: "key-revoked", Title: "Key revoked",
		Detail: "The key has been revoked; no data plane may use it."},
	{Err: resolution.ErrKeyDisabled, Status: http.StatusForbidden, Code: "permission_denied", Slug: "key-disabled", Title: "Key disabled",
		Detail: "The key is disabled; no data plane may use it until it is enabled."},
	{Err: resolution.ErrKeyExpired, Status: http.StatusForbidden, Code: "permission_denied", Slug: "key-expired", Title: "Key expired",
		Detail: "The key has expired; no data plane may use it."},
	{Err: models.ErrNotFound, Status: http.StatusNotFound, Code: "not_found", Slug: "not-found", Title: "Not found",
		Detail: "It does not exist, or you may not see it."},
	{Err: resolution.ErrNoKey, Status: http.StatusNotFound, Code: "not_found", Slug: "no-key", Title: "No key",
		Detail: "No active key of this provider may serve this caller; register one, or look at the project's policy."},
	{Err: resolution.ErrKeyRestricted, Status: http.StatusForbidden, Code: "permission_denied", Slug: "key-restricted", Title: "Key restricted",
		Detail: "The project's keys of this provider serve other users only; its owners can change that, or register another."},
	{Err: errOtherUsers, Status: http.StatusNotFound, Code: "not_found", Slug: "no-key", Title: "No key",
		Detail: "The project's keys of this provider serve other users only; its owners can change that, or register another."},
	{Err: errNotEnforced, Status: http.StatusNotFound, Code: "not_found", Slug: "no-key", Title: "No key",
		Detail: "The key is restricted to models or operations, which this data plane does not enforce; its operator can upgrade it."},
	{Err: errLimitsNotEnforced, Status: http.StatusNotFound, Code: "not_found", Slug: "no-key", Title: "No key",
		Detail: "The key has limits, which this data plane does not enforce; its operator can upgrade it."},
	{Err: providers.ErrCannotSign, Status: http.StatusNotFound, Code: "not_found", Slug: "no-key", Title: "No key",
		Detail: "The key's stored credential can't be used with its provider; register it again."},
	{Err: exchange.ErrRefused, Status: http.StatusForbidden, Code: "permission_denied", Slug: "credential-refused", Title: "Credential refused",
		Detail: "The cloud's token service refuses the key's credential; check it there, and register another."},
	{Err: exchange.ErrUnavailable, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "token-unavailable", Title: "Token unavailable",
		Detail: "The cloud's token service gives no token for the key at the moment; try again after the time in Retry-After."},
	{Err: resolution.ErrUserKeyRequired, Status: http.StatusNotFound, Code: "not_found", Slug: "user-key-required", Title: "User key required",
		Detail: "The project's policy requires a key of the user's own for this provider, and they have none."},
	{Err: resolution.ErrCallerUnauthenticated, Status: http.StatusUnprocessableEntity, Code: "unauthenticated", Slug: "caller-unauthenticated", Title: "Caller unauthenticated",
		Detail: "The caller's API key or session token is not valid."},
	{Err: models.ErrUnavailable, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The database can't serve this at the moment; try again after the time in Retry-After."},
	{Err: sealer.ErrUnavailable, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The secrets service can't be reached at the moment; try again after the time in Retry-After."},
})...)

// Problems returns the API's table of problems.
func Problems() problem.Table { return problems }
