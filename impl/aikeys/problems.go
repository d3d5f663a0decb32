package aikeys

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// The errors of requests that only an owner may make. Each is a models.ErrForbidden.
var (
	errRegister     = fmt.Errorf("register a project-level key: %w", models.ErrForbidden)
	errUpdate       = fmt.Errorf("change a project-level key: %w", models.ErrForbidden)
	errRevoke       = fmt.Errorf("revoke a project-level key: %w", models.ErrForbidden)
	errRotate       = fmt.Errorf("change the versions of a project-level key: %w", models.ErrForbidden)
	errVerify       = fmt.Errorf("test a project-level key: %w", models.ErrForbidden)
	errSetPolicy    = fmt.Errorf("set the policy: %w", models.ErrForbidden)
	errSetMember    = fmt.Errorf("set a member: %w", models.ErrForbidden)
	errRemoveMember = fmt.Errorf("remove a member: %w", models.ErrForbidden)
	errReadFetches  = fmt.Errorf("read the records of fetches: %w", models.ErrForbidden)
	errResolveOther = fmt.Errorf("resolve for others: %w", models.ErrForbidden)
	errCreateToken  = fmt.Errorf("make an API key: %w", models.ErrForbidden)
	errRevokeToken  = fmt.Errorf("revoke the API key of another: %w", models.ErrForbidden)
	errReadTokens   = fmt.Errorf("read the API keys of others: %w", models.ErrForbidden)
	errFindLeaks    = fmt.Errorf("find leaks: %w", models.ErrForbidden)
	errSetProvider  = fmt.Errorf("add or remove a server: %w", models.ErrForbidden)
	errReadUsage    = fmt.Errorf("read the usage of others: %w", models.ErrForbidden)
)

// errTokenQuota is a models.ErrQuotaExceeded of API keys.
var errTokenQuota = fmt.Errorf("API keys of a user: %w", models.ErrQuotaExceeded)

// The errors of adding and removing a project's own servers.
var (
	errProviderQuota = fmt.Errorf("servers of a project: %w", models.ErrQuotaExceeded)
	errSlugTaken     = fmt.Errorf("slug of a server: %w", models.ErrAlreadyExists)
	errOperatorsAdd  = errors.New("servers are added by operators")
)

// refusals maps types of events to the errors of writes that only an owner may make.
var refusals = map[models.EventType]error{
	models.EventKeyRegistered: errRegister, models.EventKeyRevoked: errRevoke, models.EventKeyVerified: errVerify,
	models.EventKeyUpdated: errUpdate, models.EventKeyDisabled: errUpdate, models.EventKeyEnabled: errUpdate,
	models.EventKeyRotated: errRotate, models.EventKeyRotationRolledBack: errRotate, models.EventKeyVersionDestroyed: errRotate,
	models.EventPolicySet: errSetPolicy, models.EventMemberSet: errSetMember, models.EventMemberRemoved: errRemoveMember,
	models.EventTokenCreated: errCreateToken, models.EventTokenRevoked: errRevokeToken,
	models.EventProviderCreated: errSetProvider, models.EventProviderDeleted: errSetProvider,
}

// ownersOnly returns the row of a request that only an owner may make. The detail says what was refused, and who may do it.
func ownersOnly(err error, detail string) problem.Row {
	return problem.Row{Err: err, Status: http.StatusForbidden, Code: "permission_denied", Slug: "permission-denied", Title: "Permission denied", Detail: detail}
}

// problems maps errors to answers. An error of the sealer other than ErrUnavailable is an internal error: the caller can do nothing about it.
var problems = httpapi.Problems(slices.Concat(auth.Problems(), problem.Table{
	{Err: models.ErrNotMember, Status: http.StatusForbidden, Code: "permission_denied", Slug: "permission-denied", Title: "Permission denied",
		Detail: "You are not a member of this project; its owners can add users of their own customer."},
	ownersOnly(errRegister, "Only an owner of the project may register a project-level key. A member may register a key of their own, with user_scope."),
	ownersOnly(errUpdate, "Only an owner of the project may change a project-level key. A member may change keys of their own."),
	ownersOnly(errRevoke, "Only an owner of the project may revoke a project-level key. A member may revoke keys of their own."),
	ownersOnly(errRotate, "Only an owner of the project may rotate a project-level key. A member may rotate keys of their own."),
	ownersOnly(errVerify, "Only an owner of the project may have a project-level key tested. A member may have keys of their own tested."),
	ownersOnly(errSetPolicy, "Only an owner of the project may change its policy."),
	ownersOnly(errSetMember, "Only an owner of the project may add members and change their roles."),
	ownersOnly(errRemoveMember, "Only an owner of the project may remove members."),
	ownersOnly(errCreateToken, "An API key can't make one that acts in more projects, or lives longer, than itself; name fewer projects or an earlier time, or use a session token."),
	ownersOnly(errRevokeToken, "Only an owner of the project may revoke the API keys of its members. A user may revoke their own."),
	ownersOnly(errSetProvider, "Only an owner of the project may add and remove servers of its own."),
	ownersOnly(errOperatorsAdd, "The operator of this service adds and removes servers of your own; ask them, or ask them to let owners do it."),
	ownersOnly(errReadTokens, "Only an owner of the project may list the API keys of its members. A user may list their own."),
	ownersOnly(errReadFetches, "Only an owner of the project may read its records of fetches."),
	ownersOnly(errResolveOther, "Only an owner of the project may see which key serves another user. A member may see their own, without user_id."),
	ownersOnly(errFindLeaks, "Only an owner of the project may find out what has leaked. A member may revoke keys of their own."),
	ownersOnly(errReadUsage, "Only an owner of the project may read the usage of others. A member may read their own, without user_id."),
	ownersOnly(models.ErrForbidden, "Only an owner of the project may do this."),
	{Err: models.ErrNotFound, Status: http.StatusNotFound, Code: "not_found", Slug: "not-found", Title: "Not found",
		Detail: "It does not exist, or you may not see it."},
	{Err: errSlugTaken, Status: http.StatusConflict, Code: "already_exists", Slug: "already-exists", Title: "Already exists",
		Detail: "Your customer has a server with that slug, perhaps in another project; choose another slug."},
	{Err: models.ErrInUse, Status: http.StatusConflict, Code: "failed_precondition", Slug: "provider-in-use", Title: "Provider in use",
		Detail: "The server has keys that are not revoked; revoke them first. Members revoke keys of their own."},
	{Err: models.ErrAlreadyExists, Status: http.StatusConflict, Code: "already_exists", Slug: "already-exists", Title: "Already exists",
		Detail: "An active key of this provider and scope already has that name; choose another name, or revoke that key."},
	{Err: errRevoked, Status: http.StatusConflict, Code: "failed_precondition", Slug: "key-revoked", Title: "Key revoked",
		Detail: "A revoked key can't be changed, nor made to serve again; register a new one."},
	{Err: errSuspended, Status: http.StatusConflict, Code: "failed_precondition", Slug: "key-suspended", Title: "Key suspended",
		Detail: "The key was suspended when you were removed from the project; an owner can undo that removal, or register a new key."},
	{Err: errPrecondition, Status: http.StatusPreconditionFailed, Code: "failed_precondition", Slug: "precondition-failed", Title: "Precondition failed",
		Detail: "The key has been changed since you read it; read it again, and send its etag in If-Match."},
	{Err: models.ErrLastOwner, Status: http.StatusConflict, Code: "failed_precondition", Slug: "failed-precondition", Title: "Failed precondition",
		Detail: "A project must have an owner; make another member an owner first."},
	{Err: errTokenQuota, Status: http.StatusConflict, Code: "failed_precondition", Slug: "quota-exceeded", Title: "Quota exceeded",
		Detail: "You have 100 API keys that are neither revoked nor expired, or made 1,000 within a day; revoke one that is not needed, or wait."},
	{Err: errProviderQuota, Status: http.StatusConflict, Code: "failed_precondition", Slug: "quota-exceeded", Title: "Quota exceeded",
		Detail: "The project's owners have added 20 servers; remove one that is not needed."},
	{Err: models.ErrQuotaExceeded, Status: http.StatusConflict, Code: "failed_precondition", Slug: "quota-exceeded", Title: "Quota exceeded",
		Detail: "The project's keys, or your own keys in it, have reached the operator's limit; revoke one that is not needed, or ask the operator for a higher quota."},
	{Err: models.ErrIdempotencyReuse, Status: http.StatusUnprocessableEntity, Code: "failed_precondition", Slug: "idempotency-key-reused", Title: "Idempotency key reused",
		Detail: "This Idempotency-Key was used for another request; send a new one."},
	{Err: errSecretRejected, Status: http.StatusUnprocessableEntity, Code: "failed_precondition", Slug: "secret-rejected", Title: "Secret rejected",
		Detail: "The provider does not take this secret, so nothing was stored; check that it is whole and not revoked there, or send force."},
	{Err: errRotationRejected, Status: http.StatusUnprocessableEntity, Code: "failed_precondition", Slug: "secret-rejected", Title: "Secret rejected",
		Detail: "The provider does not take this secret, so nothing was stored; check that it is whole and not revoked there."},
	{Err: errSameSecret, Status: http.StatusConflict, Code: "already_exists", Slug: "same-secret", Title: "Same secret",
		Detail: "The key has this secret already, as a version that is not destroyed; nothing was changed."},
	{Err: models.ErrVersionGone, Status: http.StatusConflict, Code: "failed_precondition", Slug: "version-gone", Title: "Version gone",
		Detail: "The version is destroyed or has expired; rotate the key to another secret."},
	{Err: models.ErrVersionActive, Status: http.StatusConflict, Code: "failed_precondition", Slug: "version-active", Title: "Version active",
		Detail: "The active version can't be destroyed; activate another one first, or revoke the key."},
	{Err: models.ErrVersionTaken, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The key is being rotated by others at this moment; try again after the time in Retry-After."},
	{Err: models.ErrNoRollback, Status: http.StatusConflict, Code: "failed_precondition", Slug: "no-rollback", Title: "No rollback",
		Detail: "No earlier version is kept that could serve; it was destroyed when its overlap ended, or has expired."},
	{Err: verification.ErrStopped, Status: http.StatusConflict, Code: "failed_precondition", Slug: "not-testable", Title: "Not testable",
		Detail: "The key is revoked, disabled or expired, so its secret is not opened."},
	{Err: verification.ErrOff, Status: http.StatusConflict, Code: "failed_precondition", Slug: "not-testable", Title: "Not testable",
		Detail: "The operator of this service has turned tests of keys off."},
	{Err: verification.ErrMayNotOpen, Status: http.StatusConflict, Code: "failed_precondition", Slug: "not-testable", Title: "Not testable",
		Detail: "The operator of this service keeps its public API from opening secrets; a key is tested when its provider begins to refuse it."},
	{Err: verification.ErrTested, Status: http.StatusTooManyRequests, Code: "resource_exhausted", Slug: "tested-recently", Title: "Tested recently",
		Detail: "The key was tested within the last 10 seconds or is being tested; read the key for the verdict."},
	{Err: verification.ErrBusy, Status: http.StatusTooManyRequests, Code: "resource_exhausted", Slug: "resource-exhausted", Title: "Too many requests",
		Detail: "Too many keys are being tested, or you have had too many tested; try again after the time in Retry-After."},
	{Err: models.ErrUnavailable, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The database can't serve this at the moment; try again after the time in Retry-After."},
	{Err: keysetcheck.ErrNoFingerprints, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The service can't compare secrets at the moment; if that lasts, its operator has not allowed it to open the canary."},
	{Err: sealer.ErrUnavailable, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The secrets service can't be reached at the moment; try again after the time in Retry-After."},
})...)

// Problems returns the API's table of problems.
func Problems() problem.Table { return problems }
