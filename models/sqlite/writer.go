package sqlite

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
	"github.com/agentrouter/aikeys/models"
)

// maxGroup bounds how many writes share a commit, and so how long the first of them waits.
const maxGroup = 64

// writer is the only writer of the database. Writes that wait while one commit reaches the disk share the next commit.
// A commit takes as long as the disk does, however many writes it has. Each write has a savepoint of its own, so that
// its failure undoes no other.
type writer struct {
	db         *sql.DB
	conn       *sql.Conn
	statements statements // on conn
	orm        *gorm.DB   // over conn
	worker     *batch.Worker[*write]
}

type write struct {
	fn  func(*models.Tx) error
	err error // what fn returned
}

func newWriter(dsn string) (*writer, error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(2) // the writer's own, and one for migrations
	conn, err := db.Conn(context.Background())
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	orm, err := gorm.Open(sqlite.New(sqlite.Config{Conn: conn}), models.GORMConfig())
	if err != nil {
		return nil, errors.Join(err, conn.Close(), db.Close())
	}
	w := &writer{db: db, conn: conn, statements: statements{on: conn}, orm: orm}
	w.worker = batch.New(1, maxGroup, w.commit, nil)
	return w, nil
}

// do runs fn in a transaction and returns once it is on disk or rolled back. If ctx ends before the write has begun, fn
// never runs. Once the write has begun, do waits for its end, even if ctx ends.
func (w *writer) do(ctx context.Context, fn func(*models.Tx) error) error {
	item := &write{fn: fn}
	if err := w.worker.Do(ctx, item); err != nil {
		return err // even if fn failed, because the transaction that it saw was rolled back
	}
	return item.err
}

func (w *writer) close() error {
	w.worker.Close()
	return errors.Join(w.conn.Close(), w.db.Close())
}

// commit carries out a group of writes. It uses no caller's context, since cancelling one statement would roll back the whole
// transaction.
func (w *writer) commit(group iter.Seq[*write]) error {
	if _, err := w.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for item := range group {
		if err := w.apply(item); err != nil {
			_, _ = w.exec("ROLLBACK") // an error means that SQLite has rolled back already
			return fmt.Errorf("%w: transaction lost: %w", models.ErrUnavailable, err)
		}
	}
	if _, err := w.exec("COMMIT"); err != nil {
		_, _ = w.exec("ROLLBACK")
		return err
	}
	return nil
}

// apply carries out one write. It returns an error of the savepoint, but not an error of the write. After an error of
// the savepoint, the group must end: SQLite rolls the whole transaction back when the disk is full or fails, and the
// next write would be a transaction of its own.
func (w *writer) apply(item *write) error {
	if _, err := w.exec("SAVEPOINT one"); err != nil {
		return err
	}
	db := w.orm.WithContext(context.Background())
	if item.err = runGuarded(item.fn, models.NewTx(db, txNumber, time.Now().UnixMicro())); item.err != nil {
		if _, err := w.exec("ROLLBACK TO one"); err != nil {
			return errors.Join(item.err, err)
		}
	}
	_, err := w.exec("RELEASE one")
	return err
}

// exec runs a statement on the writing connection. In a function that was given to do, it is part of the transaction.
func (w *writer) exec(statement string, args ...any) (sql.Result, error) {
	ctx := context.Background()
	prepared, err := w.statements.get(ctx, statement)
	if err != nil {
		return nil, err
	}
	return prepared.ExecContext(ctx, args...)
}

// queryRow is exec for a statement that returns one row.
func (w *writer) queryRow(statement string, args []any, dest ...any) error {
	ctx := context.Background()
	prepared, err := w.statements.get(ctx, statement)
	if err != nil {
		return err
	}
	rows, err := prepared.QueryContext(ctx, args...) //nolint:rowserrcheck // ScanRow checks it
	if err != nil {
		return err
	}
	return models.ScanRow(rows, dest...)
}

// runGuarded turns a panic of a write into an error, so that the other writes go on.
func runGuarded(fn func(*models.Tx) error, tx *models.Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("write panicked: %T", p)
		}
	}()
	return fn(tx)
}
