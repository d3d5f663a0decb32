package models

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"gorm.io/gorm"
)

// sentinel is one of the errors that methods of a Store return, wrapped with %w. Any other error is a bug.
type sentinel string

// Error implements error.
func (s sentinel) Error() string { return string(s) }

// The errors that several methods return.
var (
	// ErrNotFound is returned where there is no such row, or none that the caller may see.
	ErrNotFound error = sentinel("not found")
	// ErrAlreadyExists is returned where a unique value is taken.
	ErrAlreadyExists error = sentinel("already exists")
	// ErrNotMember is returned where the caller is not a member of the project, or the project does not exist.
	ErrNotMember error = sentinel("not a member of the project")
	// ErrForbidden is returned where the caller is a member, but their role does not suffice.
	ErrForbidden error = sentinel("role does not suffice")
	// ErrSessionEnded is returned where the caller's API key was revoked or has expired.
	ErrSessionEnded error = sentinel("session ended")
	// ErrDataPlaneEnded is returned where the data plane's credential was revoked or has expired.
	ErrDataPlaneEnded error = sentinel("data plane's credential ended")
	// ErrNotServed is returned where the data plane may not serve the customer.
	ErrNotServed error = sentinel("customer not served by the data plane")
	// ErrLastOwner is returned for a change that would leave a project without an owner.
	ErrLastOwner error = sentinel("project would have no owner")
	// ErrIdempotencyReuse is returned for an idempotency key that an earlier, different request used.
	ErrIdempotencyReuse error = sentinel("idempotency key used for another request")
	// ErrQuotaExceeded is returned where the scope of a new key already has as many active keys as it may have.
	ErrQuotaExceeded error = sentinel("too many active keys")
	// ErrInUse is returned for the deletion of a custom provider that has keys.
	ErrInUse error = sentinel("in use")
	// ErrDestinationGone is returned where the custom provider that a new key was sealed for has been deleted since.
	ErrDestinationGone error = sentinel("custom provider is gone")
	// ErrNoDataPlane is returned for a test of a key where no connected data plane tests keys and may serve the customer.
	ErrNoDataPlane error = sentinel("no data plane tests keys of the customer")
	// ErrUnavailable is returned where the database cannot be reached or has no free connection. A retry may work.
	ErrUnavailable error = sentinel("database unavailable")
	// ErrReadOnly is an ErrUnavailable: the server takes no writes, since it is a standby, for example. Its data may be stale.
	ErrReadOnly = fmt.Errorf("%w: the server takes no writes; it is a standby, or read-only", ErrUnavailable)
	// ErrPooled is an ErrUnavailable: a prepared statement is missing, or another client's statement has its name.
	ErrPooled = fmt.Errorf("%w: a pooler gives each transaction another connection; the server's direct URL is needed too", ErrUnavailable)
	// ErrNoNotifications is returned where the database's notifications do not arrive.
	ErrNoNotifications error = sentinel("notifications of the database do not arrive; behind a pooler, the direct URL of the server is needed for them")
)

func hasSentinel(err error) bool {
	_, ok := errors.AsType[sentinel](err)
	return ok
}

// classify wraps an error with the sentinel that stands for it, if there is one.
func (s *Store) classify(err error) error {
	if err == nil || hasSentinel(err) {
		return err
	}
	if s.closed.Load() {
		// database/sql has no sentinel for the use of a closed database. Closing a pool also cancels the calls in progress.
		return fmt.Errorf("%w: store is closed: %w", ErrUnavailable, err)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	known := s.engine.Sentinel(err)
	switch {
	case known != nil:
	case errors.Is(err, gorm.ErrRecordNotFound), errors.Is(err, sql.ErrNoRows):
		known = ErrNotFound
	case errors.Is(err, gorm.ErrDuplicatedKey):
		known = ErrAlreadyExists
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone),
		errors.Is(err, sql.ErrTxDone):
		known = ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", known, err)
}
