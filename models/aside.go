package models

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// asideConns is how many connections to Postgres are kept for what must not wait for requests: one that reads changes, one
// that records fetches, and one for what goes on meanwhile. The connection that listens is apart from these.
const asideConns = 3

// newAside returns the pool for it, which is made of the same settings as the other. What is read there is looked for all
// the time, by an index: not even a table that was small when that was planned, or has no statistics, may be read whole.
func newAside(cfg *pgxpool.Config) (*pgxpool.Pool, error) {
	own := cfg.Copy()
	own.MaxConns = asideConns
	own.ConnConfig.RuntimeParams["enable_seqscan"] = "off"
	return pgxpool.NewWithConfig(context.Background(), own)
}

func (p *postgresEngine) aside(ctx context.Context, sql string, args []any, scan func(scanner) error) error {
	rows, err := p.side.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	return readRows(rows, scan)
}

func (p *postgresEngine) asideExec(ctx context.Context, sql string, args ...any) error {
	_, err := p.side.Exec(ctx, sql, args...)
	return err
}

// On SQLite a read waits for nobody, and writers share each commit.
func (e *sqliteEngine) aside(ctx context.Context, sql string, args []any, scan func(scanner) error) error {
	return e.query(ctx, sql, args, scan)
}

func (e *sqliteEngine) asideExec(ctx context.Context, sql string, args ...any) error {
	return e.writer.do(ctx, func(tx *Tx) error {
		_, err := tx.exec(sql, args)
		return err
	})
}
