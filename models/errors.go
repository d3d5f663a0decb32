package models

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"gorm.io/gorm"
)

// The errors that methods of a Store return, wrapped with %w. Any other error is a fault of ours.
var (
	// ErrNotFound is returned where no such row exists, or none that the caller may see.
	ErrNotFound = errors.New("not found")
	// ErrAlreadyExists is returned where a unique value is taken.
	ErrAlreadyExists = errors.New("already exists")
	// ErrNotMember is returned where the caller is not a member of the project, or the project does not exist.
	ErrNotMember = errors.New("not a member of the project")
	// ErrForbidden is returned where the caller is a member whose role does not suffice.
	ErrForbidden = errors.New("role does not suffice")
	// ErrSessionEnded is returned where the caller's API key was revoked or has expired.
	ErrSessionEnded = errors.New("session ended")
	// ErrDataPlaneEnded is returned where the data plane's credential was revoked or has expired.
	ErrDataPlaneEnded = errors.New("data plane's credential ended")
	// ErrNotServed is returned where the data plane may not serve the customer.
	ErrNotServed = errors.New("customer not served by the data plane")
	// ErrLastOwner is returned for a change that would leave a project without an owner.
	ErrLastOwner = errors.New("project would have no owner")
	// ErrIdempotencyReuse is returned for an idempotency key that was used with another request.
	ErrIdempotencyReuse = errors.New("idempotency key used for another request")
	// ErrQuotaExceeded is returned where the scope of a new key has as many active keys as it may.
	ErrQuotaExceeded = errors.New("too many active keys")
	// ErrInUse is returned for the deletion of a custom provider that has keys.
	ErrInUse = errors.New("in use")
	// ErrDestinationGone is returned where the custom provider that a new key was sealed for is no longer there.
	ErrDestinationGone = errors.New("custom provider is gone")
	// ErrNoDataPlane is returned for a test of a key where no data plane is connected that tests keys and may serve the customer.
	ErrNoDataPlane = errors.New("no data plane tests keys of the customer")
	// ErrUnavailable is returned where the database cannot be reached or has no free connection. A retry may work.
	ErrUnavailable = errors.New("database unavailable")
	// ErrReadOnly is an ErrUnavailable: the server that was reached takes no writes, as a standby does. What it shows may be old.
	ErrReadOnly = fmt.Errorf("%w: the server takes no writes; it is a standby, or read-only", ErrUnavailable)
	// ErrPooled is an ErrUnavailable: what a connection had prepared is gone, or another's is there.
	ErrPooled = fmt.Errorf("%w: a pooler gives each transaction another connection; the server's direct URL is needed too", ErrUnavailable)
	// ErrNoNotifications is returned where notifications of the database do not arrive.
	ErrNoNotifications = errors.New("notifications of the database do not arrive; behind a pooler, the direct URL of the server is needed for them")
)

func hasSentinel(err error) bool {
	for _, known := range []error{ErrNotFound, ErrAlreadyExists, ErrNotMember, ErrForbidden, ErrSessionEnded,
		ErrDataPlaneEnded, ErrNotServed, ErrLastOwner, ErrIdempotencyReuse, ErrQuotaExceeded, ErrInUse, ErrDestinationGone, ErrNoDataPlane, ErrUnavailable, ErrNoNotifications} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// classify wraps an error with the sentinel that it amounts to, if any.
func (s *Store) classify(err error) error {
	if err == nil || hasSentinel(err) {
		return err
	}
	if s.closed.Load() {
		// database/sql has no sentinel for what its closed parts return. Closing a pool also cancels what is under way.
		return fmt.Errorf("%w: store is closed: %w", ErrUnavailable, err)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	sentinel := s.engine.Sentinel(err)
	switch {
	case sentinel != nil:
	case errors.Is(err, gorm.ErrRecordNotFound), errors.Is(err, sql.ErrNoRows):
		sentinel = ErrNotFound
	case errors.Is(err, gorm.ErrDuplicatedKey):
		sentinel = ErrAlreadyExists
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone),
		errors.Is(err, sql.ErrTxDone):
		sentinel = ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}
