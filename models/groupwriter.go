package models

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
	gorm  *gorm.DB
	queue chan *write
	stop  chan struct{}
	done  chan struct{}
}

type write struct {
	ctx    context.Context
	fn     func(*Tx) error
	err    error
	finish chan struct{}
}

var errClosed = fmt.Errorf("%w: store is closed", ErrUnavailable)

func newGroupWriter(dsn string) (*groupWriter, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	cfg := gormConfig()
	cfg.PrepareStmt = true
	orm, err := gorm.Open(sqlite.New(sqlite.Config{Conn: db}), cfg)
	if err != nil {
		return nil, err
	}
	w := &groupWriter{db: db, gorm: orm, queue: make(chan *write, maxGroup), stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w, nil
}

// do runs fn in a transaction and returns when it is on disk, or undone.
func (w *groupWriter) do(ctx context.Context, fn func(*Tx) error) error {
	item := &write{ctx: ctx, fn: fn, finish: make(chan struct{})}
	select {
	case w.queue <- item:
	case <-w.stop:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-item.finish:
		return item.err
	case <-w.done:
		return errClosed
	}
}

func (w *groupWriter) close() error {
	close(w.stop)
	<-w.done
	return w.db.Close()
}

func (w *groupWriter) run() {
	defer close(w.done)
	for {
		select {
		case <-w.stop:
			return
		case first := <-w.queue:
			group := w.gather(first)
			if err := w.commit(group); err != nil {
				for _, item := range group {
					item.err = errors.Join(item.err, err)
				}
			}
			for _, item := range group {
				close(item.finish)
			}
		}
	}
}

func (w *groupWriter) gather(first *write) []*write {
	group := []*write{first}
	for len(group) < maxGroup {
		select {
		case next := <-w.queue:
			group = append(group, next)
		default:
			return group
		}
	}
	return group
}

// commit applies a group. Its context is its own: cancelling one caller's statement would undo the whole transaction.
func (w *groupWriter) commit(group []*write) error {
	tx := w.gorm.WithContext(context.Background()).Begin()
	if tx.Error != nil {
		return tx.Error
	}
	defer tx.Rollback()
	for _, item := range group {
		if item.err = item.ctx.Err(); item.err == nil {
			item.err = apply(tx, item.fn)
		}
	}
	return tx.Commit().Error
}

func apply(db *gorm.DB, fn func(*Tx) error) error {
	tx := &Tx{db: db.Session(&gorm.Session{NewDB: true}), bind: bindSQLite, Now: micros(time.Now())}
	if _, err := tx.exec("SAVEPOINT one", nil); err != nil {
		return err
	}
	err := guarded(fn, tx)
	if err != nil {
		if _, undo := tx.exec("ROLLBACK TO one", nil); undo != nil {
			return errors.Join(err, undo)
		}
	}
	_, release := tx.exec("RELEASE one", nil)
	return errors.Join(err, release)
}

// guarded keeps one write's panic from its neighbours.
func guarded(fn func(*Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("write panicked: %T", p)
		}
	}()
	return fn(tx)
}
