package models

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"time"

	"gorm.io/driver/sqlite"
	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/internal/batch"
)

// maxGroup bounds how many writes one commit carries, and so how long the first of them waits.
const maxGroup = 64

// groupWriter is SQLite's only writer. Writes that wait while one commit reaches the disk share the next: a commit costs
// what the disk costs, however many writes it carries. Each write has a savepoint of its own, so that one that fails undoes
// nothing of the others.
type groupWriter struct {
	db     *sql.DB
	conn   *writerConn
	gorm   *gorm.DB
	worker *batch.Worker[*write]
}

type write struct {
	fn  func(*Tx) error
	err error // what fn returned
}

func newGroupWriter(dsn string) (*groupWriter, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(2) // the writer's own, and one for migrations
	conn, err := newWriterConn(context.Background(), db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	orm, err := gorm.Open(sqlite.New(sqlite.Config{Conn: conn}), gormConfig())
	if err != nil {
		return nil, errors.Join(err, conn.close(), db.Close())
	}
	w := &groupWriter{db: db, conn: conn, gorm: orm}
	w.worker = batch.New(maxGroup, w.commit, nil)
	return w, nil
}

// do runs fn in a transaction and returns when it is on disk, or undone. A write that has not begun when ctx ends is never
// carried out; one that has is waited for.
func (w *groupWriter) do(ctx context.Context, fn func(*Tx) error) error {
	item := &write{fn: fn}
	if err := w.worker.Do(ctx, item); err != nil {
		return err // even if fn failed: what it saw of the transaction was undone
	}
	return item.err
}

func (w *groupWriter) close() error {
	w.worker.Close()
	return errors.Join(w.conn.close(), w.db.Close())
}

// commit carries out a group of writes. Its context is its own: cancelling one caller's statement would undo the whole
// transaction.
func (w *groupWriter) commit(group iter.Seq[*write]) error {
	ctx := context.Background()
	if _, err := w.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for item := range group {
		if err := item.apply(w.gorm.WithContext(ctx)); err != nil {
			w.rollback(ctx)
			return fmt.Errorf("%w: transaction lost: %w", ErrUnavailable, err)
		}
	}
	if _, err := w.conn.ExecContext(ctx, "COMMIT"); err != nil {
		w.rollback(ctx)
		return err
	}
	return nil
}

// rollback ends the transaction. An error means that SQLite has ended it already.
func (w *groupWriter) rollback(ctx context.Context) { _, _ = w.conn.ExecContext(ctx, "ROLLBACK") }

// apply carries out one write. Its error is that of a savepoint, not the write's own: SQLite rolls a whole transaction back
// when the disk is full or fails, and a write after that would be a transaction of its own.
func (item *write) apply(db *gorm.DB) error {
	tx := &Tx{db: db.Session(&gorm.Session{NewDB: true}), txNumber: sqliteTx, Now: micros(time.Now())}
	if _, err := tx.exec("SAVEPOINT one", nil); err != nil {
		return err
	}
	if item.err = guarded(item.fn, tx); item.err != nil {
		if _, err := tx.exec("ROLLBACK TO one", nil); err != nil {
			return errors.Join(item.err, err)
		}
	}
	_, err := tx.exec("RELEASE one", nil)
	return err
}

// guarded keeps one write's panic from the other writes.
func guarded(fn func(*Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("write panicked: %T", p)
		}
	}()
	return tx.carryOut(fn)
}
