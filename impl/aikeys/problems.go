package aikeys

import (
	"net/http"
	"slices"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// problems maps the errors of the packages below to answers. An error of the sealer other than ErrUnavailable is an internal one:
// the caller can do nothing about it.
var problems = httpapi.Problems(slices.Concat(auth.Problems(), problem.Table{
	{Err: models.ErrNotMember, Status: http.StatusForbidden, Code: "permission_denied", Slug: "permission-denied", Title: "Permission denied",
		Detail: "You are not a member of this project; its owners can add users of their own customer."},
	{Err: models.ErrForbidden, Status: http.StatusForbidden, Code: "permission_denied", Slug: "permission-denied", Title: "Permission denied",
		Detail: "This needs an owner of the project. A member may register and revoke keys of their own, with user_scope."},
	{Err: models.ErrNotFound, Status: http.StatusNotFound, Code: "not_found", Slug: "not-found", Title: "Not found",
		Detail: "It does not exist, or you may not see it."},
	{Err: models.ErrAlreadyExists, Status: http.StatusConflict, Code: "already_exists", Slug: "already-exists", Title: "Already exists",
		Detail: "An active key of this provider and scope already has that name; choose another name, or revoke that key."},
	{Err: models.ErrLastOwner, Status: http.StatusConflict, Code: "failed_precondition", Slug: "failed-precondition", Title: "Failed precondition",
		Detail: "A project must have an owner; make another member an owner first."},
	{Err: models.ErrQuotaExceeded, Status: http.StatusConflict, Code: "failed_precondition", Slug: "quota-exceeded", Title: "Quota exceeded",
		Detail: "The project's keys, or your own keys in it, have reached the operator's limit; revoke one that is not needed, or ask the operator for a higher quota."},
	{Err: models.ErrIdempotencyReuse, Status: http.StatusUnprocessableEntity, Code: "failed_precondition", Slug: "idempotency-key-reused", Title: "Idempotency key reused",
		Detail: "This Idempotency-Key was used for another request; send a new one."},
	{Err: models.ErrUnavailable, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The database can't serve this at the moment; try again after the time in Retry-After."},
	{Err: sealer.ErrUnavailable, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The secrets service can't be reached at the moment; try again after the time in Retry-After."},
})...)

// Problems returns the API's table of problems.
func Problems() problem.Table { return problems }
