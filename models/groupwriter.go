package models

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
)

// maxGroup bounds how many writes one commit carries, and so how long the first of them waits.
const maxGroup = 64

// groupWriter is SQLite's only writer. Whatever waits while one commit reaches the disk shares the next: a commit's cost
// is the disk's, so a group's is that of one. Each write has a savepoint of its own, so that one which fails undoes
// nothing of its neighbours'.
type groupWriter struct {
	db    *sql.DB
	conn  *writerConn
	gorm  *gorm.DB
	queue chan *write
	stop  chan struct{}
	done  chan struct{}
}

type write struct {
	fn     func(*Tx) error
	err    error
	finish chan struct{}
	// claimed is set by whoever is first: the writer, which then carries the write out, or the caller, who gives up.
	claimed atomic.Bool
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
	w := &groupWriter{db: db, conn: conn, gorm: orm, queue: make(chan *write, maxGroup), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w, nil
}

// do runs fn in a transaction and returns when it is on disk, or undone. A write that has not begun when ctx ends is
// never carried out; one that has is waited for.
func (w *groupWriter) do(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	item := &write{fn: fn, finish: make(chan struct{})}
	select {
	case w.queue <- item:
	case <-w.stop:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	var gaveUp error
	select {
	case <-item.finish:
		return item.err
	case <-w.done:
		gaveUp = errClosed
	case <-ctx.Done():
		gaveUp = ctx.Err()
	}
	if item.claimed.CompareAndSwap(false, true) {
		return gaveUp
	}
	<-item.finish
	return item.err
}

func (w *groupWriter) close() error {
	close(w.stop)
	<-w.done
	return errors.Join(w.conn.close(), w.db.Close())
}

func (w *groupWriter) run() {
	defer close(w.done)
	for {
		select {
		case <-w.stop:
			return
		case first := <-w.queue:
			group := gather(w.queue, first, maxGroup)
			err := w.commit(group)
			for _, item := range group {
				if err != nil {
					item.err = err // what it met in the transaction, a name taken say, was undone as well
				}
				close(item.finish)
			}
		}
	}
}

// commit applies a group; its error is every write's. Its context is its own: cancelling one caller's statement would undo
// the whole transaction.
func (w *groupWriter) commit(group []*write) error {
	ctx := context.Background()
	if _, err := w.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := w.applyAll(ctx, group); err != nil {
		w.rollback(ctx)
		return err
	}
	if _, err := w.conn.ExecContext(ctx, "COMMIT"); err != nil {
		w.rollback(ctx)
		return err
	}
	return nil
}

func (w *groupWriter) applyAll(ctx context.Context, group []*write) error {
	db := w.gorm.WithContext(ctx)
	for _, item := range group {
		if !item.claimed.CompareAndSwap(false, true) {
			continue
		}
		if err := item.apply(db); err != nil {
			return fmt.Errorf("%w: transaction lost: %w", ErrUnavailable, err)
		}
	}
	return nil
}

// rollback ends the transaction; SQLite may have ended it already, which is as good.
func (w *groupWriter) rollback(ctx context.Context) { _, _ = w.conn.ExecContext(ctx, "ROLLBACK") }

// apply carries the write out. Its error is that of a savepoint, not the write's own: SQLite rolls a whole transaction back
// when the disk is full or fails, and what ran on after that would be a transaction of its own.
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

// guarded keeps one write's panic from its neighbours.
func guarded(fn func(*Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("write panicked: %T", p)
		}
	}()
	return tx.carryOut(fn)
}
