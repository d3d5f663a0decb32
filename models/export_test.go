package models

import (
	"context"
	"database/sql"

	"github.com/pressly/goose/v3"
)

// What the tests of package models_test see of the inside. They are in a package of their own because modelstest, which they
// use, imports this one.

// EngineOf returns a store's engine.
func EngineOf(s *Store) Engine { return s.engine }

// Migrator returns what applies a store's migrations.
func Migrator(s *Store) (*goose.Provider, error) { return s.migrator() }

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

// TxExec runs any statement in a transaction.
func TxExec(tx *Tx, statement string, args ...any) error {
	_, err := tx.exec(statement, args)
	return err
}

// Classify wraps a driver's error with the sentinel that it amounts to.
func Classify(s *Store, err error) error { return s.classify(err) }
