package models

import "errors"

// The sentinels that a Store method returns, wrapped with %w. Anything else is a fault of ours.
var (
	// ErrNotFound says that no such row exists, or none that the caller may see.
	ErrNotFound = errors.New("not found")
	// ErrAlreadyExists says that a unique value is taken.
	ErrAlreadyExists = errors.New("already exists")
	// ErrNotMember says that the caller is no member of the project, or that there is no such project.
	ErrNotMember = errors.New("not a member of the project")
	// ErrForbidden says that the caller is a member whose role does not suffice.
	ErrForbidden = errors.New("role does not suffice")
	// ErrSessionEnded says that the caller's API key was revoked or has expired.
	ErrSessionEnded = errors.New("session ended")
	// ErrDataPlaneEnded says that the data plane's credential was revoked or has expired.
	ErrDataPlaneEnded = errors.New("data plane's credential ended")
	// ErrNotServed says that the data plane may not serve the customer.
	ErrNotServed = errors.New("customer not served by the data plane")
	// ErrLastOwner says that a change would leave a project without an owner.
	ErrLastOwner = errors.New("project would have no owner")
	// ErrIdempotencyReuse says that an idempotency key came back with another request.
	ErrIdempotencyReuse = errors.New("idempotency key used for another request")
	// ErrUnavailable says that the database cannot be reached or has no connection free; a retry may work.
	ErrUnavailable = errors.New("database unavailable")
)
