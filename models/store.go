package models

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"gorm.io/gorm"
)

// Store is the database. Its methods return the sentinels of this package; all of them may return ErrUnavailable.
type Store struct {
	engine
	timeout time.Duration
	closed  atomic.Bool
	// changed holds a wake-up for who watches; see Watch.
	changed chan struct{}
}

// Options adjust a Store; the zero value is ready for production.
type Options struct {
	// Timeout is how long one method may take, waiting for a connection included. Zero is 5 s.
	Timeout time.Duration
	// MaxConns is how many connections to Postgres to hold at the most. Zero is 16. SQLite ignores it.
	MaxConns int
}

// engine is what differs between the two databases.
type engine interface {
	// orm is GORM over the connections of a pool, for reads.
	orm(from pool) *gorm.DB
	// query runs one hand-written statement, with $N parameters, and hands each row to scan.
	query(ctx context.Context, sql string, args []any, scan func(scanner) error) error
	// lookUp is query for statements that return one row and only read; it sees to its own timeout.
	lookUp(ctx context.Context, sql string, args []any, scan func(scanner) error) error
	// transact runs fn in a transaction; the transaction is durable when it returns nil.
	transact(ctx context.Context, from pool, fn func(*Tx) error) error
	// register is the hot write: the key, its event and its idempotency record at once.
	register(ctx context.Context, c Caller, needs Role, r Registration, now int64) (registered, error)
	// migrator applies the engine's own migrations. It uses the engine's connections, so the caller must not close it.
	migrator() (*goose.Provider, error)
	ping(ctx context.Context) error
	// position is the expression of what the statement it stands in sees, txNumber that of the number which the transaction
	// gives to the next event, and changes the statement for what a position lacks.
	position() string
	txNumber() string
	changes(since Position, limit int) (sql string, args []any)
	// fetchSQL are the statements of a fetch: for a caller, and by a key's id.
	fetchSQL() (forCaller, byID string)
	recordFetch(ctx context.Context, r FetchRecord) error
	// rewrap stores the envelopes of keys that still have the old ones, and returns their ids.
	rewrap(ctx context.Context, batch []Rewrapping) ([]string, error)
	// aside runs a statement on a connection that no request waits for, so that leases go on while the pool is busy.
	aside(ctx context.Context, sql string, args []any, scan func(scanner) error) error
	asideExec(ctx context.Context, sql string, args ...any) error
	// listen calls wake when another process may have committed something, until ctx ends; notify is what it hears.
	listen(ctx context.Context, wake func()) error
	notify(ctx context.Context) error
	// classify wraps a driver's error with the sentinel it amounts to.
	classify(err error) error
	close() error
}

type scanner interface{ Scan(dest ...any) error }

// Open returns the Store behind url, "sqlite:<path>" or "postgres://…". It opens no connection: a database that is down
// is found out by the first method, and no error may hold url, which can carry a password.
func Open(url string, opts Options) (*Store, error) {
	if opts.Timeout == 0 {
		opts.Timeout = 5 * time.Second
	}
	if opts.MaxConns == 0 {
		opts.MaxConns = 16
	}
	var (
		e   engine
		err error
	)
	switch scheme, rest, _ := strings.Cut(url, ":"); scheme {
	case "sqlite":
		e, err = openSQLite(rest, opts.Timeout)
	case "postgres", "postgresql":
		e, err = openPostgres(url, opts)
	default:
		return nil, errors.New("database URL: want sqlite:<path> or postgres://<user>@<host>/<database>")
	}
	if err != nil {
		return nil, err
	}
	return &Store{engine: e, timeout: opts.Timeout, changed: make(chan struct{}, 1)}, nil
}

// Close ends the store's connections and goroutines. Calls under way end with ErrUnavailable or their result; closing again
// does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.close()
}

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.ping(ctx))
}

// Transact runs fn in one transaction, which is durable when Transact returns nil and undone when fn returns an error.
// fn must do nothing but use its Tx, and quickly: on SQLite it shares the only writer.
func (s *Store) Transact(ctx context.Context, fn func(*Tx) error) error {
	return s.transactOn(ctx, requestPool, fn)
}

func (s *Store) transactOn(ctx context.Context, from pool, fn func(*Tx) error) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if err := s.transact(ctx, from, fn); err != nil {
		return s.classify(err)
	}
	s.Wake()
	return nil
}

func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout)
}

// classify adds what only the store knows: database/sql has no sentinel for what its closed parts return.
func (s *Store) classify(err error) error {
	err = s.engine.classify(err)
	if err == nil || !s.closed.Load() || hasSentinel(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errClosed, err) // a cancellation too: it may be that of the pool
}

func hasSentinel(err error) bool {
	for _, known := range []error{ErrNotFound, ErrAlreadyExists, ErrNotMember, ErrForbidden, ErrSessionEnded,
		ErrDataPlaneEnded, ErrNotServed, ErrLastOwner, ErrIdempotencyReuse, ErrUnavailable} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// classifyCommon maps what both engines have in common; native says what the driver's own error amounts to, or nil.
func classifyCommon(err error, native func(error) error) error {
	if err == nil || hasSentinel(err) || errors.Is(err, context.Canceled) {
		return err
	}
	sentinel := native(err)
	switch {
	case sentinel != nil:
	case errors.Is(err, gorm.ErrRecordNotFound):
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

func micros(t time.Time) int64 { return t.UnixMicro() }
