package models

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"

	"github.com/agentrouter/aikeys/internal/position"
)

// Store reads and writes the database. All of its methods may return ErrUnavailable.
type Store struct {
	engine  Engine
	timeout time.Duration
	closed  atomic.Bool
	// changed holds one signal for Watch after a commit.
	changed chan struct{}
	quotas  quotaSlack
	trail   *trail
}

// Options adjust a Store; the zero value is ready for production.
type Options struct {
	// Timeout bounds each method, including the wait for a connection. Zero means 5 s.
	Timeout time.Duration
	// MaxConns is how many connections to PostgreSQL requests may hold. Zero means 16. SQLite ignores it.
	MaxConns int
	// DirectURL is the URL of the PostgreSQL server itself, for a Store whose URL leads to a pooler: a pooler supports
	// neither notifications nor migrations. Empty means that there is no pooler.
	DirectURL string
	// Plaintext allows connections without TLS to PostgreSQL on another machine.
	Plaintext bool
	// Process is the actor of the system events that the Store writes.
	Process Process
}

// WithDefaults returns the options with defaults in place of zeros.
func (o Options) WithDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.MaxConns == 0 {
		o.MaxConns = 16
	}
	return o
}

// Pool names a set of connections to PostgreSQL. SQLite has one set: there, readers never wait, and writers share commits.
type Pool int

const (
	// RequestPool serves requests, which may take all of its connections and wait for more.
	RequestPool Pool = iota
	// ReservedPool serves everything that a lease depends on. It has a connection for each of its users, which run one
	// statement at a time: reading changes, storing the replica's heartbeat, notifying other replicas of a commit, taking
	// forwarded acknowledgements, storing records of fetches, and up to four resumed streams that catch up.
	ReservedPool
	// BackgroundPool serves the event feed's bookkeeping of streams and receipts, which comes in bursts.
	BackgroundPool
)

// Engine is one kind of database. It has a method for each operation that the databases carry out differently; Store does
// the rest with GORM or Query. Methods return the driver's errors.
type Engine interface {
	// ORM returns GORM over a pool's connections, for reads. Writes go through Transact.
	ORM(Pool) *gorm.DB
	// Transact runs fn in a transaction, which is durable once Transact returns nil.
	Transact(ctx context.Context, from Pool, fn func(*Tx) error) error
	// Query runs a read on a connection for requests, and calls scan for each row. Parameters are written $1, $2, and so on.
	Query(ctx context.Context, statement string, args []any, scan func(Row) error) error
	// QueryRow runs a read that returns one row.
	QueryRow(ctx context.Context, statement string, args []any, dest ...any) error

	// Register stores r if the caller's role covers needs and the key's scope has room. It stores nothing and returns
	// no error if the role does not suffice, the scope is full, the idempotency key is taken, or the key's destination
	// is gone. Until it returns, no other transaction changes the caller's role or ends their session.
	Register(ctx context.Context, c Caller, needs Role, r Registration, now int64) (CallerStatus, RegisterOutcome, error)
	// Fetch and FetchByID return all that a fetch needs, as of one position.
	Fetch(ctx context.Context, dataPlaneID string, c Caller, provider string, now int64) (FetchRow, error)
	FetchByID(ctx context.Context, dataPlaneID, id string, now int64) (FetchByIDRow, error)
	// RecordFetch stores the record of a fetch, in one commit with others that wait.
	RecordFetch(ctx context.Context, r FetchRecord) error
	// Rewrap replaces the old envelopes that are still stored, and returns their SealedNames.
	Rewrap(ctx context.Context, batch []Rewrapping) ([]string, error)
	// Changes returns at least limit of the changes committed since a position, or all of them, and the present position.
	Changes(ctx context.Context, since position.Position, limit int) ([]Change, position.Position, error)
	// Position returns the present position.
	Position(ctx context.Context) (position.Position, error)
	// Listen calls wake when another process may have committed something, until ctx ends. Notify makes Listen of other
	// processes call wake.
	Listen(ctx context.Context, wake func()) error
	Notify(ctx context.Context) error
	// CheckNotifications returns an error if notifications do not arrive.
	CheckNotifications(ctx context.Context) error

	// CheckCreate returns an error if the database user may not create tables; it tells the operator what to do.
	CheckCreate(ctx context.Context) error
	// Migrator returns the provider that applies the engine's migrations. wrap gets goose's own store of schema
	// versions, and returns the store in which the provider records the migrations. The provider must not be closed,
	// because it uses the engine's connections.
	Migrator(wrap func(versions database.Store) database.Store) (*goose.Provider, error)
	Ping(ctx context.Context) error
	// Stats returns the state of the connections for requests.
	Stats() PoolStats
	// Sentinel returns the error of this package that stands for a driver's error, or nil.
	Sentinel(err error) error
	Close() error
}

// NewStore returns a Store on an engine. Use database.Open, which makes the engine too.
func NewStore(e Engine, opts Options) *Store {
	return &Store{
		engine: e, timeout: opts.WithDefaults().Timeout, changed: make(chan struct{}, 1),
		quotas: quotaSlack{left: map[[3]string]int{}}, trail: &trail{Process: opts.Process},
	}
}

// Close ends the store's connections and goroutines. Calls in progress return their result or ErrUnavailable. Closing a
// closed store does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.engine.Close()
}

// Ping returns nil if the database answers.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.engine.Ping(ctx))
}

// Transact runs fn in one transaction, which is durable once Transact returns nil, and rolled back if fn returns an error.
// fn must be quick and only use its Tx: on SQLite all other writers wait for it.
func (s *Store) Transact(ctx context.Context, fn func(*Tx) error) error {
	return s.transact(ctx, RequestPool, fn)
}

func (s *Store) transact(ctx context.Context, from Pool, fn func(*Tx) error) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err := s.engine.Transact(ctx, from, func(tx *Tx) error {
		tx.trail = s.trail
		return fn(tx)
	})
	if err != nil {
		// Cancelling ctx closes the connection; statements then return driver.ErrBadConn or sql.ErrTxDone without the cause.
		if errors.Is(ctx.Err(), context.Canceled) && !hasSentinel(err) && !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", context.Canceled, err)
		}
		return s.classify(err)
	}
	signal(s.changed)
	return nil
}

func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout)
}

// read runs queries with GORM over the connections for requests.
func (s *Store) read(ctx context.Context, query func(db *gorm.DB) error) error {
	return s.readFrom(ctx, RequestPool, query)
}

func (s *Store) readFrom(ctx context.Context, from Pool, query func(db *gorm.DB) error) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(query(s.engine.ORM(from).WithContext(ctx)))
}

// find returns the rows that a query over the connections for requests selects.
func find[T any](ctx context.Context, s *Store, query func(db *gorm.DB) *gorm.DB) (rows []T, err error) {
	err = s.read(ctx, func(db *gorm.DB) error { return query(db).Find(&rows).Error })
	return rows, err
}

// take returns the first row that a query over the connections for requests selects. Errors: ErrNotFound.
func take[T any](ctx context.Context, s *Store, query func(db *gorm.DB) *gorm.DB) (row T, err error) {
	err = s.read(ctx, func(db *gorm.DB) error { return query(db).Take(&row).Error })
	return row, err
}

// PoolStats counts a store's connections to its database.
type PoolStats struct {
	// InUse and Idle count open connections. Max is how many there may be.
	InUse, Idle, Max int
	// Waits counts the calls that found no idle connection since the store was opened.
	Waits int64
}

// Stats returns the state of the connections for requests. On SQLite that includes the writer's.
func (s *Store) Stats() PoolStats { return s.engine.Stats() }

// GORMConfig returns the engines' configuration of GORM. It silences GORM's log, which prints statements with their values.
func GORMConfig() *gorm.Config {
	return &gorm.Config{
		Logger: logger.Discard, TranslateError: true, SkipDefaultTransaction: true, DisableAutomaticPing: true,
	}
}

// Tx is an open transaction. It is for one goroutine, and valid until the function that was given to Transact returns.
type Tx struct {
	db *gorm.DB
	// number is the SQL expression for the transaction's number, with which its events are stored.
	number string
	// Now is the time of everything in the transaction, in microseconds.
	Now   int64
	trail *trail
}

// NewTx returns a transaction that an engine has begun on db.
func NewTx(db *gorm.DB, number string, now int64) *Tx { return &Tx{db: db, number: number, Now: now} }

// exec runs a hand-written write, and returns how many rows it changed.
func (tx *Tx) exec(statement string, args []any) (int64, error) {
	done, err := tx.db.Statement.ConnPool.ExecContext(tx.context(), statement, args...)
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}

// queryRow runs a hand-written read that returns one row.
func (tx *Tx) queryRow(statement string, args []any, dest ...any) error {
	rows, err := tx.db.Statement.ConnPool.QueryContext(tx.context(), statement, args...)
	if err != nil {
		return err
	}
	return ScanRow(rows, dest...)
}

// ScanRow reads the only row of a result and closes the result. It returns sql.ErrNoRows if there is none.
func ScanRow(rows *sql.Rows, dest ...any) error {
	defer func() { _ = rows.Close() }()
	if !rows.Next() {
		return cmp.Or(rows.Err(), sql.ErrNoRows)
	}
	return errors.Join(rows.Scan(dest...), rows.Close())
}

func (tx *Tx) context() context.Context { return tx.db.Statement.Context }

// locking returns GORM for queries that lock the rows they select: no other transaction can change them until this one ends.
func (tx *Tx) locking() *gorm.DB { return tx.db.Clauses(clause.Locking{Strength: "UPDATE"}) }

// Role returns the caller's role, which cannot change until the transaction ends. Errors: ErrSessionEnded, ErrNotMember.
func (tx *Tx) Role(c Caller) (Role, error) {
	if err := tx.lockProject(c.CustomerID, c.ProjectID); err != nil {
		return "", err
	}
	var status CallerStatus
	err := tx.queryRow(CallerStatement, CallerParams(c, tx.Now), status.dest()...)
	if err != nil {
		return "", err
	}
	return status.Role, status.Check(RoleMember)
}

// lockProject makes writers of one project's members take turns. A project that does not exist locks nothing.
func (tx *Tx) lockProject(customerID, projectID string) error {
	return tx.locking().Where("customer_id = ? AND project_id = ?", customerID, projectID).Find(&[]Project{}).Error
}

// Caller is the user for whom a method acts, and the project. The project must belong to the session's customer, since a
// user id identifies a user only within a customer.
type Caller struct {
	CustomerID string
	ProjectID  string
	UserID     string
	// TokenID is the API key in use. It is empty for a session token, which cannot be revoked here.
	TokenID string
}

// CallerParams returns the first five parameters of every statement with CallerColumns and CallerTables.
func CallerParams(c Caller, now int64) Params {
	return Params{c.TokenID, now, c.CustomerID, c.ProjectID, c.UserID}
}

// CallerColumns and CallerTables are the part of a hand-written statement that checks its caller. The statement returns
// one row for every caller: whether the caller's session is live, and the caller's role in the project. The role is
// empty if the caller is not a member.
const (
	CallerColumns = `($1 = '' OR t.id IS NOT NULL) AS live, COALESCE(m.role, '') AS role`
	CallerTables  = `(SELECT 1) AS one
LEFT JOIN api_tokens t ON t.id = $1 AND t.revoked_at = 0 AND (t.expires_at = 0 OR t.expires_at > $2)
LEFT JOIN project_members m ON m.customer_id = $3 AND m.project_id = $4 AND m.user_id = $5 AND ` + TokenReaches

	// TokenReaches is the condition that the caller's API key t, if they use one, may act in the project $4. It reads t's row
	// alone, so its result cannot change while a transaction holds a lock on the row.
	//nolint:gosec // G101: a condition
	TokenReaches = `($1 = '' OR (t.projects = '' OR replace(t.projects, ' ' || $4 || ' ', '') <> t.projects)
AND replace(t.barred, ' ' || $4 || ' ', '') = t.barred)`

	// CallerStatement selects the caller's status alone.
	CallerStatement = `SELECT ` + CallerColumns + ` FROM ` + CallerTables
)

// CallerStatus is what a statement found out about its caller.
type CallerStatus struct {
	// Live reports whether the session is live.
	Live bool
	Role Role
}

// dest returns where to scan CallerColumns. The role is scanned as a string: drivers use reflection for other types.
func (s *CallerStatus) dest() []any { return []any{&s.Live, (*string)(&s.Role)} }

// Check returns nil if the caller's session is live and their role covers needs.
func (s CallerStatus) Check(needs Role) error {
	switch {
	case !s.Live:
		return ErrSessionEnded
	case s.Role == "":
		return ErrNotMember
	case !s.Role.Covers(needs):
		return ErrForbidden
	}
	return nil
}

// Role returns the caller's role. Errors: ErrSessionEnded, ErrNotMember.
func (s *Store) Role(ctx context.Context, c Caller, now int64) (Role, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var status CallerStatus
	// The statement is hand-written, because most requests need it.
	err := s.engine.QueryRow(ctx, CallerStatement, CallerParams(c, now), status.dest()...)
	if err != nil {
		return "", s.classify(err)
	}
	return status.Role, status.Check(RoleMember)
}

// FindToken returns the API key with an id, whether it is revoked or not. Its statement is hand-written because the
// first request of every session needs it. Errors: ErrNotFound.
func (s *Store) FindToken(ctx context.Context, id string) (t Token, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err = s.engine.QueryRow(ctx, `SELECT id, hash, customer_id, project_id, user_id, created_at, expires_at, revoked_at, last_used_at
FROM api_tokens WHERE id = $1`, []any{id},
		&t.ID, &t.Hash, &t.CustomerID, &t.ProjectID, &t.UserID, &t.CreatedAt, &t.ExpiresAt, &t.RevokedAt, &t.LastUsedAt)
	return t, s.classify(err)
}
