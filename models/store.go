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

// Store is the database. All of its methods may return ErrUnavailable.
type Store struct {
	engine  Engine
	timeout time.Duration
	closed  atomic.Bool
	// changed holds one signal for Watch after something was committed.
	changed chan struct{}
	quotas  quotaSlack
	trail   *trail
}

// Options adjust a Store; the zero value is ready for production.
type Options struct {
	// Timeout is how long one method may take, waiting for a connection included. Zero is 5 s.
	Timeout time.Duration
	// MaxConns is how many connections to PostgreSQL requests may hold. Zero is 16. SQLite ignores it.
	MaxConns int
	// DirectURL leads to the PostgreSQL server that the URL reaches through a pooler, which serves neither notifications nor
	// migrations. Empty means that there is no pooler.
	DirectURL string
	// Plaintext allows PostgreSQL beyond this machine to be reached without TLS.
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

// Pool names a set of connections to PostgreSQL. SQLite has one set: a reader never waits there, and writers share commits.
type Pool int

const (
	// RequestPool serves requests, which may take all of its connections and wait for more.
	RequestPool Pool = iota
	// ReservedPool serves what a lease depends on. Each of its users runs one statement at a time, and it has a connection for
	// each: reading changes, the replica's heartbeat, notifying other replicas of a commit, taking forwarded acknowledgements,
	// writing records of fetches, and up to four resumed streams that read what they have missed.
	ReservedPool
	// BackgroundPool serves the event feed's bookkeeping of streams and receipts, of which there may be much at once.
	BackgroundPool
)

// Engine is one kind of database. What the engines have in common is in Store, over GORM or over Query; an operation that
// they carry out differently is a method here. Methods return errors as the driver does.
type Engine interface {
	// ORM returns GORM over a pool's connections, for reads. Writes go through Transact.
	ORM(Pool) *gorm.DB
	// Transact runs fn in a transaction, which is durable when Transact returns nil.
	Transact(ctx context.Context, from Pool, fn func(*Tx) error) error
	// Query runs a read on a connection for requests, and calls scan for each row. Parameters are written $1, $2 and so on.
	Query(ctx context.Context, statement string, args []any, scan func(Row) error) error
	// QueryRow runs a read that returns one row.
	QueryRow(ctx context.Context, statement string, args []any, dest ...any) error

	// Register stores what r holds if the caller's role covers needs and the key's scope has room. Nothing is stored, without an
	// error, where the role does not suffice, the scope is full or the idempotency key is taken. Until it has ended, no other
	// transaction changes the caller's role or ends their session.
	Register(ctx context.Context, c Caller, needs Role, r Registration, now int64) (CallerStatus, RegisterOutcome, error)
	// Fetch and FetchByID return what a fetch needs to know, as of one position.
	Fetch(ctx context.Context, dataPlaneID string, c Caller, provider string, now int64) (FetchRow, error)
	FetchByID(ctx context.Context, dataPlaneID, id string, now int64) (FetchByIDRow, error)
	// RecordFetch stores the record of a fetch, in one commit with others that wait.
	RecordFetch(ctx context.Context, r FetchRecord) error
	// Rewrap stores new envelopes in place of the old ones where these are still there, and returns the SealedNames of those.
	Rewrap(ctx context.Context, batch []Rewrapping) ([]string, error)
	// Changes returns what was committed since a position, up to limit or more, and what is committed now.
	Changes(ctx context.Context, since position.Position, limit int) ([]Change, position.Position, error)
	// Position returns what is committed now.
	Position(ctx context.Context) (position.Position, error)
	// Listen calls wake when another process may have committed something, until ctx ends. Notify is what it listens for.
	Listen(ctx context.Context, wake func()) error
	Notify(ctx context.Context) error
	// CheckNotifications returns an error if notifications do not arrive.
	CheckNotifications(ctx context.Context) error

	// CheckCreate returns an error that says what to do if the user may create no tables.
	CheckCreate(ctx context.Context) error
	// Migrator applies the engine's migrations, and notes them in what noting returns for goose's own store of versions. It uses the
	// engine's connections, so it must not be closed.
	Migrator(noting func(versions database.Store) database.Store) (*goose.Provider, error)
	Ping(ctx context.Context) error
	// Stats returns the state of the connections for requests.
	Stats() PoolStats
	// Sentinel returns the error of this package that a driver's error amounts to, or nil.
	Sentinel(err error) error
	Close() error
}

// NewStore returns a Store on an engine. Use database.Open, which makes the engine too.
func NewStore(e Engine, opts Options) *Store {
	return &Store{engine: e, timeout: opts.WithDefaults().Timeout, changed: make(chan struct{}, 1), quotas: quotaSlack{left: map[[3]string]int{}},
		trail: &trail{Process: opts.Process}}
}

// Close ends the store's connections and goroutines. Calls under way end with ErrUnavailable or their result. Closing again
// does nothing.
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

// Transact runs fn in one transaction, which is durable when Transact returns nil and undone when fn returns an error.
// fn must be quick and do nothing but use its Tx: on SQLite it holds up all other writers.
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
		// Canceling ctx closes the connection, and what then uses it returns driver.ErrBadConn or sql.ErrTxDone without the cause.
		if errors.Is(ctx.Err(), context.Canceled) && !hasSentinel(err) && !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w: %w", context.Canceled, err)
		}
		return s.classify(err)
	}
	s.Wake()
	return nil
}

// orm returns GORM over the connections for requests.
func (s *Store) orm(ctx context.Context) *gorm.DB { return s.engine.ORM(RequestPool).WithContext(ctx) }

func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout)
}

// PoolStats counts a store's connections to its database.
type PoolStats struct {
	// InUse connections are at work, Idle ones are open and free; Max is how many there may be.
	InUse, Idle, Max int
	// Waits is how often a caller found no idle connection, since the store was opened.
	Waits int64
}

// Stats returns the state of the connections for requests. On SQLite that includes the writer's.
func (s *Store) Stats() PoolStats { return s.engine.Stats() }

// GORMConfig is the engines' configuration of GORM. GORM's own log is silenced, since it prints statements with their values.
func GORMConfig() *gorm.Config {
	return &gorm.Config{
		Logger: logger.Discard, TranslateError: true, SkipDefaultTransaction: true, DisableAutomaticPing: true,
	}
}

// Tx is an open transaction. It serves one goroutine, until the function it was given to returns.
type Tx struct {
	db *gorm.DB
	// number is the SQL expression of the transaction's number, which its events are stored with.
	number string
	// Now is the transaction's one time, in microseconds.
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

// ScanRow reads the only row of a result, and closes it. Without a row it returns sql.ErrNoRows.
func ScanRow(rows *sql.Rows, dest ...any) error {
	defer func() { _ = rows.Close() }()
	if !rows.Next() {
		return cmp.Or(rows.Err(), sql.ErrNoRows)
	}
	return errors.Join(rows.Scan(dest...), rows.Close())
}

func (tx *Tx) context() context.Context { return tx.db.Statement.Context }

// Role returns the caller's role, which stays as it is until the transaction ends. Errors: ErrSessionEnded, ErrNotMember.
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
	return tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).
		Where("customer_id = ? AND project_id = ?", customerID, projectID).Find(&[]Project{}).Error
}

// Caller is the user for whom a method acts, and the project. The project must be one of the session's customer: user ids
// mean something only within their customer.
type Caller struct {
	CustomerID string
	ProjectID  string
	UserID     string
	// TokenID is the API key in use. It is empty for a session token, which can't be revoked here.
	TokenID string
}

// CallerParams are the first five parameters of every statement with CallerColumns and CallerTables.
func CallerParams(c Caller, now int64) Params {
	return Params{c.TokenID, now, c.CustomerID, c.ProjectID, c.UserID}
}

// What a hand-written statement selects to check its caller: one row comes back for any caller, with whether their session is
// live, and their role, empty for a stranger.
const (
	CallerColumns = `($1 = '' OR t.id IS NOT NULL) AS live, COALESCE(m.role, '') AS role`
	CallerTables  = `(SELECT 1) AS one
LEFT JOIN api_tokens t ON t.id = $1 AND t.revoked_at = 0 AND (t.expires_at = 0 OR t.expires_at > $2)
LEFT JOIN project_members m ON m.customer_id = $3 AND m.project_id = $4 AND m.user_id = $5 AND ` + TokenReaches

	// TokenReaches is the condition that the caller's API key t, if they use one, may act in the project $4. All of it is in t's row, so
	// that a transaction which locks the row and then reads it has what is true.
	//nolint:gosec // G101: a condition
	TokenReaches = `($1 = '' OR (t.projects = '' OR replace(t.projects, ' ' || $4 || ' ', '') <> t.projects)
AND replace(t.barred, ' ' || $4 || ' ', '') = t.barred)`

	// CallerStatement selects the caller's status alone.
	CallerStatement = `SELECT ` + CallerColumns + ` FROM ` + CallerTables
)

// CallerStatus is what a statement found of its caller.
type CallerStatus struct {
	// Live reports whether the session is good.
	Live bool
	Role Role
}

// dest is where CallerColumns go. A role is read as the string it is: drivers convert other types by reflection, in each row.
func (s *CallerStatus) dest() []any { return []any{&s.Live, (*string)(&s.Role)} }

// Check returns nil if the caller may do what needs a role.
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
	// Hand-written: a request of every project asks for it.
	err := s.engine.QueryRow(ctx, CallerStatement, CallerParams(c, now), status.dest()...)
	if err != nil {
		return "", s.classify(err)
	}
	return status.Role, status.Check(RoleMember)
}

// FindToken returns the API key with that id, revoked or not: ErrNotFound. It is hand-written because the first request of
// every session needs it.
func (s *Store) FindToken(ctx context.Context, id string) (Token, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var t Token
	err := s.engine.QueryRow(ctx, `SELECT id, hash, customer_id, project_id, user_id, created_at, expires_at, revoked_at, last_used_at
FROM api_tokens WHERE id = $1`, []any{id},
		&t.ID, &t.Hash, &t.CustomerID, &t.ProjectID, &t.UserID, &t.CreatedAt, &t.ExpiresAt, &t.RevokedAt, &t.LastUsedAt)
	return t, s.classify(err)
}
