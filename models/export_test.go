package models

import (
	"context"
	"database/sql"
	"sync/atomic"

	"github.com/pressly/goose/v3"
)

// What the tests of package models_test see of the inside. They live in a package of their own because modelstest, which
// they use, imports this one.

// The hot statements, with $N parameters.
const (
	GetKeySQL   = getKeySQL
	ListKeysSQL = listKeysSQL
	RewrapSQL   = postgresRewrap
)

// CallerArgs are the first parameters of the hot statements.
func CallerArgs(c Caller, now int64) []any { return callerArgs(c, now) }

// BindSQLite turns $N parameters into SQLite's own.
func BindSQLite(text string) string { return bindSQLite(text) }

// Migrator returns the store's migrations, to walk them down as well.
func Migrator(s *Store) (*goose.Provider, error) { return s.migrator() }

// Exec runs any statement by a connection that the store writes by. On SQLite no write may be under way.
func Exec(ctx context.Context, s *Store, statement string, args ...any) error {
	var err error
	if e, ok := s.engine.(*sqliteEngine); ok {
		_, err = e.writer.conn.ExecContext(ctx, statement, args...)
	} else {
		_, err = Conn(s).ExecContext(ctx, statement, args...)
	}
	return err
}

// Conn returns the connections that the store reads by.
func Conn(s *Store) *sql.DB {
	switch e := s.engine.(type) {
	case *postgresEngine:
		return e.std
	case *sqliteEngine:
		return e.readers
	}
	return nil
}

// Count returns how many rows a table has.
func Count(ctx context.Context, s *Store, table string) (int, error) {
	var n int
	err := s.orm(requestPool).WithContext(ctx).Raw("SELECT count(*) FROM " + table).Scan(&n).Error
	return n, err
}

// CountStatements returns a counter of the hand-written statements that the store runs from now on.
func CountStatements(s *Store) *atomic.Int64 {
	counting := &countingEngine{engine: s.engine}
	s.engine = counting
	return &counting.statements
}

type countingEngine struct {
	engine
	statements atomic.Int64
}

func (e *countingEngine) lookUp(ctx context.Context, text string, args []any, scan func(scanner) error) error {
	e.statements.Add(1)
	return e.engine.lookUp(ctx, text, args, scan)
}

func (e *countingEngine) query(ctx context.Context, text string, args []any, scan func(scanner) error) error {
	e.statements.Add(1)
	return e.engine.query(ctx, text, args, scan)
}

// ErrUnannounced is that a transaction lacks the event of what it changed.
var ErrUnannounced = errUnannounced

// Queued returns how many writes wait for SQLite's writer.
func Queued(s *Store) int {
	if e, ok := s.engine.(*sqliteEngine); ok {
		return e.writer.worker.Waiting()
	}
	return 0
}

// TxExec runs any statement in a transaction.
func TxExec(tx *Tx, statement string, args ...any) error {
	_, err := tx.exec(statement, args)
	return err
}

// Classify wraps a driver's error with the sentinel it amounts to.
func Classify(s *Store, err error) error { return s.classify(err) }

// FetchSQL are the statements of a fetch, with $N parameters.
func FetchSQL(s *Store) (forCaller, byID string) { return s.fetchSQL() }

// ChangesSQL is the statement for what a position lacks, with $N parameters, and its arguments.
func ChangesSQL(s *Store, since Position, limit int) (statement string, args []any) {
	return s.changes(since, limit)
}

// Contains tells whether a position has all of another.
func Contains(p, q Position) bool { return p.contains(q) }
