package models

import (
	"context"
	"database/sql"

	"github.com/pressly/goose/v3"
)

// These functions give the tests in models_test access to internals. The tests are in a separate package because they
// use modelstest, and modelstest imports models.

// Migrator returns the provider of a store's migrations.
func Migrator(s *Store) (*goose.Provider, error) { return s.migrator() }

// Exec runs any statement in a transaction.
func Exec(ctx context.Context, s *Store, statement string) error {
	return s.Transact(ctx, func(tx *Tx) error {
		_, err := tx.exec(statement, nil)
		return err
	})
}

// Conn returns the connections that the store reads with.
func Conn(s *Store) *sql.DB {
	db, err := s.engine.ORM(RequestPool).DB()
	if err != nil {
		panic(err)
	}
	return db
}

// Classify wraps a driver's error with the sentinel that stands for it.
func Classify(s *Store, err error) error { return s.classify(err) }

// Wake wakes the watchers of the database, as a commit does.
func Wake(s *Store) { signal(s.changed) }
