package models

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jackc/puddle/v2"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/agentrouter/aikeys/internal/batch"
)

// postgresEngine uses one pool for GORM and for the hand-written statements.
type postgresEngine struct {
	*connections         // of requests
	reserved, background *connections
	// keys and callers carry the hot look-ups, each their own: one that waits for a lock holds up its own kind alone.
	keys, callers *pipeline
	records       *batch.Worker[FetchRecord]
	// writers is a place for each transaction under way. They get half of the connections, so that writers who wait for one
	// another leave the rest to everybody else.
	writers chan struct{}
	timeout time.Duration
	// schema is for migrations, which may take as long as they take.
	schema *sql.DB
	// listener is how to connect for notifications; id tells our own from others'.
	listener *pgx.ConnConfig
	id       string
}

var errBadURL = errors.New("database URL: not a valid postgres:// URL; special characters of a password are escaped as in %2F")

func openPostgres(url string, opts Options) (engine, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errBadURL
	}
	// A "/" in a password that isn't escaped ends the host early; the rest would show in errors as the database's name.
	if strings.Contains(cfg.ConnConfig.Database, "@") {
		return nil, errBadURL
	}
	cfg.MaxConns = int32(min(opts.MaxConns, 1000)) //nolint:gosec // G115: bounded on this line
	cfg.ConnConfig.ConnectTimeout = min(opts.Timeout, 3*time.Second)
	schema := stdlib.OpenDB(*cfg.ConnConfig.Copy())
	schema.SetMaxIdleConns(0) // migrations are rare
	listener := cfg.ConnConfig.Copy()
	// The server ends what a lost client left behind, and a statement that we have given up on.
	for name, value := range map[string]time.Duration{
		"statement_timeout": opts.Timeout, "idle_in_transaction_session_timeout": opts.Timeout, "lock_timeout": opts.Timeout / 2,
	} {
		cfg.ConnConfig.RuntimeParams[name] = strconv.FormatInt(value.Milliseconds(), 10)
	}
	// Each of our statements has one right plan, to walk its index in order, whatever its parameters. Postgres would plan a
	// page of a large project anew each time, which costs more than the page, or gather and sort the project for it.
	cfg.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	cfg.ConnConfig.RuntimeParams["enable_bitmapscan"] = "off"
	var opened [pools]*connections
	for i, conns := range [pools]int32{requestPool: cfg.MaxConns, reservedPool: reservedConns, backgroundPool: backgroundConns} {
		if opened[i], err = openPool(cfg, conns); err != nil {
			return nil, fmt.Errorf("database: %w", err)
		}
	}
	requests, reserved := opened[requestPool], opened[reservedPool]
	return &postgresEngine{
		connections: requests, reserved: reserved, background: opened[backgroundPool], schema: schema, timeout: opts.Timeout,
		keys: newPipeline(requests.Pool, opts.Timeout), callers: newPipeline(requests.Pool, opts.Timeout),
		records: newRecorder(reserved.Pool, opts.Timeout),
		writers: make(chan struct{}, max(1, opts.MaxConns/2)), listener: listener, id: rand.Text(),
	}, nil
}

// gormConfig silences GORM's own log, which prints statements with their values.
func gormConfig() *gorm.Config {
	return &gorm.Config{
		Logger: logger.Discard, TranslateError: true, SkipDefaultTransaction: true, DisableAutomaticPing: true,
	}
}

func (p *postgresEngine) pool(from pool) *connections {
	switch from {
	case reservedPool:
		return p.reserved
	case backgroundPool:
		return p.background
	}
	return p.connections
}

func (p *postgresEngine) orm(from pool) *gorm.DB { return p.pool(from).gorm }

func (p *postgresEngine) ping(ctx context.Context) error { return p.Ping(ctx) }

func (p *postgresEngine) close() error {
	p.keys.close()
	p.callers.close()
	p.records.Close()
	return errors.Join(p.connections.close(), p.reserved.close(), p.background.close(), p.schema.Close())
}

func (p *postgresEngine) lookUp(ctx context.Context, sql string, args []any, scan func(scanner) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if sql == roleSQL || sql == sessionSQL {
		return p.callers.do(ctx, sql, args, scan)
	}
	return p.keys.do(ctx, sql, args, scan)
}

func (p *postgresEngine) query(ctx context.Context, sql string, args []any, scan func(scanner) error) error {
	rows, err := p.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	return readRows(rows, scan)
}

func (p *postgresEngine) transact(ctx context.Context, from pool, fn func(*Tx) error) error {
	if from == requestPool {
		select {
		case p.writers <- struct{}{}:
			defer func() { <-p.writers }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return p.orm(from).WithContext(ctx).Transaction(func(db *gorm.DB) error {
		return (&Tx{db: db, txNumber: postgresTx, Now: micros(time.Now())}).carryOut(fn)
	})
}

// The forms of the hot statements, built once.
var (
	postgresFetch, postgresFetchByID = fetchSQL(postgresPosition, postgresNewest)

	registerPlain      = registerSQL(false)
	registerIdempotent = registerSQL(true)
)

// registerSQL is one statement, and so one round trip and one transaction: who the caller is, and, if their role
// suffices, the inserts. Its parameters are callerArgs, the role needed, keyArgs, eventArgs and idempotencyArgs.
func registerSQL(idempotent bool) string {
	allowed := ` FROM caller WHERE live AND (role = 'owner' OR role = $6)`
	ctes := []string{`caller AS (SELECT ` + callerColumns + ` FROM ` + callerJoins + `)`}
	source := allowed
	if idempotent {
		ctes = append(ctes, `claimed AS (`+insertIdempotency+`SELECT `+params(36, 7)+allowed+` ON CONFLICT DO NOTHING RETURNING 1)`)
		source = ` FROM claimed`
	}
	ctes = append(ctes,
		`stored AS (`+insertKey+`SELECT `+params(7, 12)+source+` RETURNING 1)`,
		`recorded AS (`+insertEvent+`SELECT `+postgresTx+`, `+params(19, 17)+` FROM stored)`)
	return `WITH ` + strings.Join(ctes, ",\n") + "\nSELECT live, role, EXISTS (SELECT 1 FROM stored) FROM caller"
}

func (p *postgresEngine) register(ctx context.Context, c Caller, needs Role, r Registration, now int64) (registered, error) {
	args := append(callerArgs(c, now), string(needs))
	args = append(append(args, keyArgs(r.Key)...), eventArgs(r.Event)...)
	sql := registerPlain
	if r.Idempotency != nil {
		sql, args = registerIdempotent, append(args, idempotencyArgs(*r.Idempotency)...)
	}
	var got registered
	err := p.query(ctx, sql, args, func(row scanner) error { return row.Scan(&got.live, &got.role, &got.stored) })
	return got, err
}

// classify: https://www.postgresql.org/docs/15/errcodes-appendix.html
func (p *postgresEngine) classify(err error) error {
	return classifyCommon(err, func(err error) error {
		// Whatever keeps us from connecting, a changed password too, is for an operator to mend and for callers to wait for.
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) {
			return ErrUnavailable
		}
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) {
			if isConnectionError(err) {
				return ErrUnavailable
			}
			return nil
		}
		switch class := pgErr.Code[:min(2, len(pgErr.Code))]; {
		case pgErr.Code == "23505":
			return ErrAlreadyExists
		case class == "08", class == "53", class == "57", class == "55", class == "40", pgErr.Code == "25006", pgErr.Code == "25P03":
			// connection, resources, shutdown or cancel, lock, serialization or deadlock, a standby, idle timeout
			return ErrUnavailable
		case pgErr.Code == "42P01", pgErr.Code == "3D000":
			// no such table or database: not migrated yet
			return ErrUnavailable
		}
		return nil
	})
}

func isConnectionError(err error) bool {
	var network net.Error
	return errors.As(err, &network) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, pgx.ErrTxClosed) || errors.Is(err, puddle.ErrClosedPool)
}

func (p *postgresEngine) fetchSQL() (forCaller, byID string) { return postgresFetch, postgresFetchByID }
