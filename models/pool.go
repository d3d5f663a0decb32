package models

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// pool names a set of connections to Postgres. SQLite has one set: there a read waits for nobody, and writers share commits.
type pool int

const (
	// requestPool serves requests, which may take all of it and wait for more.
	requestPool pool = iota
	// reservedPool serves what a lease depends on. Each of its users runs one statement at a time, and it has a connection for
	// each: reading changes, the replica's heartbeat, notifying other replicas of a commit, taking acknowledgements that were
	// forwarded, writing records of fetches, and up to four resumed streams that read what they have missed.
	reservedPool
	// backgroundPool serves the rest of the event feed's bookkeeping, streams and receipts, however much of it there is.
	backgroundPool
	pools
)

// reservedConns and backgroundConns are how many connections these pools hold at most. One more, in no pool, listens.
const (
	reservedConns   = 9
	backgroundConns = 3
)

// connections are a pool, and GORM over it.
type connections struct {
	*pgxpool.Pool
	std  *sql.DB
	gorm *gorm.DB
}

func openPool(cfg *pgxpool.Config, conns int32) (*connections, error) {
	cfg = cfg.Copy()
	cfg.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	std := stdlib.OpenDBFromPool(pool)
	db, err := gorm.Open(postgres.New(postgres.Config{Conn: std}), gormConfig())
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &connections{pool, std, db}, nil
}

func (c *connections) close() error {
	err := c.std.Close()
	c.Close()
	return err
}

func (p *postgresEngine) aside(ctx context.Context, sql string, args []any, scan func(scanner) error) error {
	rows, err := p.reserved.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	return readRows(rows, scan)
}

func (p *postgresEngine) asideExec(ctx context.Context, sql string, args ...any) error {
	_, err := p.reserved.Exec(ctx, sql, args...)
	return err
}

func (e *sqliteEngine) aside(ctx context.Context, sql string, args []any, scan func(scanner) error) error {
	return e.query(ctx, sql, args, scan)
}

func (e *sqliteEngine) asideExec(ctx context.Context, sql string, args ...any) error {
	return e.writer.do(ctx, func(tx *Tx) error {
		_, err := tx.exec(sql, args)
		return err
	})
}
