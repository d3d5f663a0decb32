package models

import (
	"context"
	"database/sql"
	"sync/atomic"
)

// What the tests of package models_test see of the inside. They are in a package of their own because modelstest, which they
// use, imports this one.

// EngineOf returns a store's engine.
func EngineOf(s *Store) Engine { return s.engine }

// Exec runs any statement by a connection that the store writes by: on SQLite in a transaction of its writer.
func Exec(ctx context.Context, s *Store, statement string, args ...any) error {
	if s.engine.ORM(RequestPool).Name() == "sqlite" {
		return s.engine.Transact(ctx, RequestPool, func(tx *Tx) error { return TxExec(tx, statement, args...) })
	}
	_, err := Conn(s).ExecContext(ctx, statement, args...)
	return err
}

// Conn returns the connections that the store reads by.
func Conn(s *Store) *sql.DB {
	db, err := s.engine.ORM(RequestPool).DB()
	if err != nil {
		panic(err)
	}
	return db
}

// Count returns how many rows a table has.
func Count(ctx context.Context, s *Store, table string) (int, error) {
	var n int
	err := s.orm(ctx).Raw("SELECT count(*) FROM " + table).Scan(&n).Error
	return n, err
}

// CountStatements returns a counter of the hand-written statements that the store runs from now on.
func CountStatements(s *Store) *atomic.Int64 {
	counting := &countingEngine{Engine: s.engine}
	s.engine = counting
	return &counting.statements
}

type countingEngine struct {
	Engine
	statements atomic.Int64
}

func (e *countingEngine) QueryRow(ctx context.Context, statement string, args []any, dest ...any) error {
	e.statements.Add(1)
	return e.Engine.QueryRow(ctx, statement, args, dest...)
}

func (e *countingEngine) Query(ctx context.Context, statement string, args []any, scan func(Row) error) error {
	e.statements.Add(1)
	return e.Engine.Query(ctx, statement, args, scan)
}

func (e *countingEngine) Register(ctx context.Context, c Caller, needs Role, r Registration, now int64) (CallerStatus, bool, error) {
	e.statements.Add(1)
	return e.Engine.Register(ctx, c, needs, r, now)
}

// TxExec runs any statement in a transaction.
func TxExec(tx *Tx, statement string, args ...any) error {
	_, err := tx.exec(statement, args)
	return err
}

// Classify wraps a driver's error with the sentinel that it amounts to.
func Classify(s *Store, err error) error { return s.classify(err) }
