package models

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	sqlitedriver "modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"
)

// sqliteEngine reads through a pool of connections and writes through one, whose owner commits writers in groups.
type sqliteEngine struct {
	readers  *sql.DB
	gorm     *gorm.DB
	writer   *groupWriter
	prepared prepared // on the readers
	timeout  time.Duration
}

// pragmas: a commit is on disk before it is acknowledged (synchronous FULL), and readers never wait for the writer (WAL).
var pragmas = []string{
	"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)",
}

// writerPragmas: pages that many commits change reach the database file once for all of them (16 MB of WAL at the most),
// and the writer keeps what it changes in memory (16 MB).
var writerPragmas = []string{"wal_autocheckpoint(4000)", "cache_size(-16000)"}

func openSQLite(path string, timeout time.Duration) (engine, error) {
	if path == "" || path == ":memory:" {
		return nil, errors.New("database URL: want sqlite:<path of a file>")
	}
	if err := prepareFile(path); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	query := url.Values{"_pragma": pragmas}
	readers, err := sql.Open("sqlite", "file:"+url.PathEscape(path)+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	// A reader keeps a processor busy; more readers than processors only take turns, which costs each of them.
	readers.SetMaxOpenConns(max(2, runtime.GOMAXPROCS(0)))
	readers.SetMaxIdleConns(max(2, runtime.GOMAXPROCS(0)))
	query["_pragma"] = slices.Concat(pragmas, writerPragmas)
	query.Set("_txlock", "immediate")
	e, err := newSQLiteEngine(readers, "file:"+url.PathEscape(path)+"?"+query.Encode())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database: %w", err), readers.Close())
	}
	e.timeout = timeout
	return e, nil
}

func newSQLiteEngine(readers *sql.DB, writerDSN string) (*sqliteEngine, error) {
	if err := awaitWAL(readers); err != nil {
		return nil, err
	}
	db, err := gorm.Open(sqlite.New(sqlite.Config{Conn: readers}), gormConfig())
	if err != nil {
		return nil, err
	}
	writer, err := newGroupWriter(writerDSN)
	if err != nil {
		return nil, err
	}
	return &sqliteEngine{readers: readers, gorm: db, writer: writer, prepared: prepared{on: readers}}, nil
}

// awaitWAL opens the first connection, which turns the write-ahead log on. When several processes do so to a new file, SQLite
// turns some away at once, whatever their busy timeout.
func awaitWAL(db *sql.DB) error {
	const attempts, pause = 100, 20 * time.Millisecond
	for attempt := 1; ; attempt++ {
		err := db.PingContext(context.Background())
		var native *sqlitedriver.Error
		busy := errors.As(err, &native) && native.Code()&0xff == sqlitelib.SQLITE_BUSY
		if !busy || attempt == attempts {
			return err
		}
		time.Sleep(pause)
	}
}

// prepareFile makes the database file readable by its owner alone, before SQLite would make it with the umask's mode.
func prepareFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func (e *sqliteEngine) orm(pool) *gorm.DB { return e.gorm }

func (e *sqliteEngine) ping(ctx context.Context) error { return e.readers.PingContext(ctx) }

func (e *sqliteEngine) close() error {
	return errors.Join(e.writer.close(), e.prepared.close(), e.readers.Close())
}

func (e *sqliteEngine) query(ctx context.Context, text string, args []any, scan func(scanner) error) error {
	rows, err := e.rows(ctx, text, args)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// lookUp stops at the one row: to step on, only to see that there is no second, would cost a tenth of a look-up.
func (e *sqliteEngine) lookUp(ctx context.Context, text string, args []any, scan func(scanner) error) error {
	rows, err := e.rows(ctx, text, args)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	if rows.Next() {
		return scan(rows)
	}
	return rows.Err()
}

func (e *sqliteEngine) rows(ctx context.Context, text string, args []any) (*sql.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// A local read is over in microseconds; watching for its cancellation would cost more than the read.
	ctx = context.WithoutCancel(ctx)
	stmt, err := e.prepared.get(ctx, text)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

func (e *sqliteEngine) transact(ctx context.Context, _ pool, fn func(*Tx) error) error {
	return e.writer.do(ctx, fn)
}

func (e *sqliteEngine) register(ctx context.Context, c Caller, needs Role, r Registration, now int64) (registered, error) {
	var got registered
	err := e.writer.do(ctx, func(tx *Tx) error {
		err := tx.queryRow(roleSQL, callerArgs(c, now)...).Scan(&got.live, &got.role)
		if err != nil || got.check(needs) != nil {
			return err
		}
		if r.Idempotency != nil {
			claimed, err := tx.exec(insertIdempotency+`VALUES (`+params(1, 7)+`) ON CONFLICT DO NOTHING`, idempotencyArgs(*r.Idempotency))
			if err != nil || claimed == 0 {
				return err
			}
		}
		if _, err := tx.exec(insertKey+`VALUES (`+params(1, 12)+`)`, keyArgs(r.Key)); err != nil {
			return err
		}
		got.stored = true
		_, err = tx.exec(insertEvent+`VALUES (`+sqliteTx+`, `+params(1, 17)+`)`, eventArgs(r.Event))
		return err
	})
	return got, err
}

// classify: https://www.sqlite.org/rescode.html
func (e *sqliteEngine) classify(err error) error {
	return classifyCommon(err, func(err error) error {
		var native *sqlitedriver.Error
		if !errors.As(err, &native) {
			return nil
		}
		switch native.Code() {
		case sqlitelib.SQLITE_CONSTRAINT_UNIQUE, sqlitelib.SQLITE_CONSTRAINT_PRIMARYKEY:
			return ErrAlreadyExists
		}
		switch native.Code() & 0xff {
		case sqlitelib.SQLITE_BUSY, sqlitelib.SQLITE_LOCKED, sqlitelib.SQLITE_IOERR, sqlitelib.SQLITE_FULL,
			sqlitelib.SQLITE_CANTOPEN, sqlitelib.SQLITE_READONLY:
			return ErrUnavailable
		}
		return nil
	})
}
