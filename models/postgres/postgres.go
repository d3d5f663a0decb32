// Package postgres implements models.Engine on PostgreSQL: the connections, and the operations that differ from SQLite's.
package postgres

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jackc/puddle/v2"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/internal/batch"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/migrations"
)

// reservedConns and backgroundConns are the numbers of connections in the reserved and background pools; models.Pool
// says what the pools serve. One more connection, which belongs to no pool, listens for notifications.
const (
	reservedConns   = 9
	backgroundConns = 3
)

// Reads of single rows that wait at the same time share a round trip, because system calls and wake-ups on both sides
// are most of the cost of such a read. `make bench BENCH=GetPostgres` measures it. Several groups run at once, so that
// a group that waits for a lock does not hold up the others.
const (
	concurrentReads = 4
	maxReads        = 32
)

// engine is a models.Engine.
type engine struct {
	requests, reserved, background *pool
	// reads reads single rows for requests, in groups.
	reads *batch.Worker[*read]
	// records writes records of fetches, in groups, on one reserved connection.
	records *batch.Worker[queuedRecord]
	// writers limits the transactions of requests to half of the connections, so that writers that wait for each other leave the
	// other half to everything else.
	writers chan struct{}
	timeout time.Duration
	// schema is for migrations, which have no time limit.
	schema *sql.DB
	// listener is the configuration of the connection that listens. id marks this process's notifications.
	listener *pgx.ConnConfig
	id       string
}

// pool is a set of connections, for hand-written statements and for GORM.
type pool struct {
	*pgxpool.Pool
	std *sql.DB
	orm *gorm.DB
}

// Open returns the engine for a URL. It opens no connection.
func Open(url string, opts models.Options) (models.Engine, error) {
	cfg, err := parseURL(url, opts.Plaintext)
	if err != nil {
		return nil, err
	}
	direct := cfg
	if opts.DirectURL != "" {
		if direct, err = parseURL(opts.DirectURL, opts.Plaintext); err != nil {
			return nil, fmt.Errorf("direct URL: %w", err)
		}
	}
	e := &engine{timeout: opts.Timeout, writers: make(chan struct{}, max(1, opts.MaxConns/2)), id: rand.Text()}
	for _, c := range []*pgx.ConnConfig{cfg.ConnConfig, direct.ConnConfig} {
		c.ConnectTimeout = min(opts.Timeout, 3*time.Second)
		c.OnPgError = e.dropReadOnly
		connectToWriter(c, "")
	}
	e.listener = direct.ConnConfig.Copy()
	e.schema = stdlib.OpenDB(*direct.ConnConfig.Copy())
	e.schema.SetMaxIdleConns(0) // migrations are rare
	if opts.DirectURL == "" {
		connectToWriter(cfg.ConnConfig, limits(opts.Timeout))
	} else {
		// Behind a pooler, each transaction may run on another connection to the server, without the state that an
		// earlier transaction left there.
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	var failed error
	open := func(conns int) *pool {
		p, err := openPool(cfg, conns)
		failed = errors.Join(failed, err)
		return p
	}
	e.requests, e.reserved, e.background = open(opts.MaxConns), open(reservedConns), open(backgroundConns)
	if failed != nil {
		return nil, failed
	}
	e.reads = batch.New(concurrentReads, maxReads, e.readGroup, e.mayConcernOne)
	e.records = batch.New(1, maxRecords, func(group iter.Seq[queuedRecord]) error { return e.insertRecords(slices.Collect(group)) }, e.mayConcernOne)
	return e, nil
}

func openPool(cfg *pgxpool.Config, conns int) (*pool, error) {
	cfg = cfg.Copy()
	cfg.MaxConns = int32(min(conns, 1000)) //nolint:gosec // G115: bounded on this line
	connections, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	std := stdlib.OpenDBFromPool(connections)
	orm, err := gorm.Open(postgres.New(postgres.Config{Conn: std}), models.GORMConfig())
	if err != nil {
		connections.Close()
		return nil, err
	}
	return &pool{connections, std, orm}, nil
}

func (e *engine) pool(from models.Pool) *pool {
	switch from {
	case models.ReservedPool:
		return e.reserved
	case models.BackgroundPool:
		return e.background
	case models.RequestPool:
	}
	return e.requests
}

// ORM implements models.Engine.
func (e *engine) ORM(from models.Pool) *gorm.DB { return e.pool(from).orm }

// Migrator implements models.Engine.
func (e *engine) Migrator(wrap func(database.Store) database.Store) (*goose.Provider, error) {
	files, err := migrations.Of("postgres")
	if err != nil {
		return nil, err
	}
	const everySecond, fiveMinutes = 1, 300
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(everySecond, fiveMinutes))
	if err != nil {
		return nil, err
	}
	versions, err := database.NewStore(goose.DialectPostgres, goose.DefaultTablename)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectCustom, e.schema, files, goose.WithStore(wrap(versions)), goose.WithSessionLocker(locker))
}

// Ping implements models.Engine.
func (e *engine) Ping(ctx context.Context) error {
	var readOnly string
	err := e.requests.QueryRow(ctx, "SELECT current_setting('transaction_read_only')").Scan(&readOnly)
	if err == nil && readOnly != "off" {
		e.dropConnections()
		return models.ErrReadOnly
	}
	return err
}

// Stats implements models.Engine.
func (e *engine) Stats() models.PoolStats {
	stat := e.requests.Stat()
	return models.PoolStats{
		InUse: int(stat.AcquiredConns()), Idle: int(stat.IdleConns()), Max: int(stat.MaxConns()), Waits: stat.EmptyAcquireCount(),
	}
}

// Close implements models.Engine.
func (e *engine) Close() error {
	e.reads.Close()
	e.records.Close()
	failed := e.schema.Close()
	for _, p := range []*pool{e.requests, e.reserved, e.background} {
		failed = errors.Join(failed, p.std.Close())
		p.Close()
	}
	return failed
}

// Sentinel implements models.Engine. It maps SQLSTATE codes: https://www.postgresql.org/docs/15/errcodes-appendix.html.
func (*engine) Sentinel(err error) error {
	if errors.Is(err, models.ErrReadOnly) {
		return models.ErrReadOnly
	}
	// Every failure to connect, even for a changed password, is ErrUnavailable: callers retry, and an operator fixes the cause.
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return models.ErrUnavailable
	}
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		if isConnectionError(err) {
			return models.ErrUnavailable
		}
		return nil
	}
	switch refused.Code {
	case "23505": // unique violation
		return models.ErrAlreadyExists
	case readOnlyTransaction, notOnStandby:
		return models.ErrReadOnly
	case "42P05", "26000": // a prepared statement exists, or does not
		return models.ErrPooled
	case "25P03", // idle in a transaction for too long
		"42P01", "3D000": // no such table or database: not migrated yet
		return models.ErrUnavailable
	}
	switch refused.Code[:min(2, len(refused.Code))] {
	case "08", "53", "57", "55", "40": // connection, resources, shutdown or cancel, lock, serialization or deadlock
		return models.ErrUnavailable
	}
	return nil
}

func isConnectionError(err error) bool {
	var network net.Error
	return errors.As(err, &network) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, pgx.ErrTxClosed) || errors.Is(err, puddle.ErrClosedPool)
}

// isStatementAtFault reports whether an error is due to the statement itself, so that a retry would fail too.
func (e *engine) isStatementAtFault(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && e.Sentinel(err) == nil
}

// mayConcernOne reports whether one member may have caused a group's error, so that the other members would succeed
// alone. The cause may be a faulty statement, or the deadline of the member that has waited longest. Each member's own
// deadline bounds the retries.
func (e *engine) mayConcernOne(err error) bool {
	return e.isStatementAtFault(err) || errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err)
}
