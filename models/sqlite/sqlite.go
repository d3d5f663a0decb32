// Package sqlite implements models.Engine on SQLite: the connections, the group commit, and the operations that differ from
// PostgreSQL's.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	sqlitedriver "modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/migrations"
)

// engine is a models.Engine. It reads through a pool of connections and writes through a single one. All models.Pools are the same.
type engine struct {
	readers    *sql.DB
	statements statements // on readers
	orm        *gorm.DB   // over readers
	writer     *writer
}

// pragmas make a commit return once it is on disk (synchronous FULL), and readers never wait for the writer (WAL).
var pragmas = []string{"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)"}

// writerPragmas make the writer copy pages to the database file once for many commits (when the WAL has about 16 MB),
// and let it cache the pages that it changes (16 MB).
var writerPragmas = []string{"wal_autocheckpoint(4000)", "cache_size(-16000)"}

// statements caches prepared statements by their text: on SQLite, parsing a statement costs more than running it.
// Closing the connections closes the statements. GORM's own cache is not used, because it closes statements in
// goroutines: that may happen after the connection is closed, or while a statement runs.
type statements struct {
	on interface {
		PrepareContext(ctx context.Context, text string) (*sql.Stmt, error)
	}
	byText sync.Map // of *sql.Stmt
}

func (s *statements) get(ctx context.Context, text string) (*sql.Stmt, error) {
	if stmt, ok := s.byText.Load(text); ok {
		return stmt.(*sql.Stmt), nil //nolint:forcetypeassert,errcheck // the map holds nothing else
	}
	stmt, err := s.on.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	if first, raced := s.byText.LoadOrStore(text, stmt); raced {
		return first.(*sql.Stmt), stmt.Close() //nolint:forcetypeassert,errcheck // the map holds nothing else
	}
	return stmt, nil
}

// Open returns the engine on a file, which it creates if there is none.
func Open(path string) (models.Engine, error) {
	if path == "" || path == ":memory:" {
		return nil, errors.New("want sqlite:<path of a file>")
	}
	if err := makeFile(path); err != nil {
		return nil, err
	}
	query := url.Values{"_pragma": pragmas}
	readers, err := sql.Open("sqlite", "file:"+url.PathEscape(path)+"?"+query.Encode())
	if err != nil {
		return nil, err
	}
	// A reader keeps a processor busy, so more readers than processors would only take turns.
	readers.SetMaxOpenConns(max(2, runtime.GOMAXPROCS(0)))
	readers.SetMaxIdleConns(max(2, runtime.GOMAXPROCS(0)))
	query["_pragma"] = slices.Concat(pragmas, writerPragmas)
	query.Set("_txlock", "immediate")
	e, err := newEngine(readers, "file:"+url.PathEscape(path)+"?"+query.Encode())
	if err != nil {
		return nil, errors.Join(err, readers.Close())
	}
	return e, nil
}

func newEngine(readers *sql.DB, writerDSN string) (*engine, error) {
	if err := openWAL(readers); err != nil {
		return nil, err
	}
	orm, err := gorm.Open(sqlite.New(sqlite.Config{Conn: readers}), models.GORMConfig())
	if err != nil {
		return nil, err
	}
	writer, err := newWriter(writerDSN)
	if err != nil {
		return nil, err
	}
	return &engine{readers: readers, statements: statements{on: readers}, orm: orm, writer: writer}, nil
}

// openWAL opens the first connection, which turns the write-ahead log on. If several processes do so for a new file at
// the same time, SQLite refuses some of them immediately, whatever their busy timeout. So openWAL tries again.
func openWAL(db *sql.DB) error {
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

// makeFile creates the database file with access for its owner only. SQLite would use the umask.
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// ORM implements models.Engine.
func (e *engine) ORM(models.Pool) *gorm.DB { return e.orm }

// Transact implements models.Engine.
func (e *engine) Transact(ctx context.Context, _ models.Pool, fn func(*models.Tx) error) error {
	return e.writer.do(ctx, fn)
}

// Query implements models.Engine.
func (e *engine) Query(ctx context.Context, statement string, args []any, scan func(models.Row) error) error {
	rows, err := e.query(ctx, statement, args)
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

// QueryRow implements models.Engine. It stops at the first row, since looking for a second would take a tenth of a look-up's time.
func (e *engine) QueryRow(ctx context.Context, statement string, args []any, dest ...any) error {
	rows, err := e.query(ctx, statement, args) //nolint:rowserrcheck // ScanRow checks it
	if err != nil {
		return err
	}
	return models.ScanRow(rows, dest...)
}

func (e *engine) query(ctx context.Context, statement string, args []any) (*sql.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// A local read takes microseconds. Watching for its cancellation would cost more than the read.
	ctx = context.WithoutCancel(ctx)
	prepared, err := e.statements.get(ctx, statement)
	if err != nil {
		return nil, err
	}
	return prepared.QueryContext(ctx, args...)
}

// Migrator implements models.Engine.
func (e *engine) Migrator(wrap func(database.Store) database.Store) (*goose.Provider, error) {
	files, err := migrations.Of("sqlite")
	if err != nil {
		return nil, err
	}
	versions, err := database.NewStore(goose.DialectSQLite3, goose.DefaultTablename)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectCustom, e.writer.db, files, goose.WithStore(wrap(versions)))
}

// Ping implements models.Engine.
func (e *engine) Ping(ctx context.Context) error { return e.readers.PingContext(ctx) }

// Stats implements models.Engine.
func (e *engine) Stats() models.PoolStats {
	readers, writer := e.readers.Stats(), e.writer.db.Stats()
	return models.PoolStats{
		InUse: readers.InUse + writer.InUse, Idle: readers.Idle + writer.Idle,
		Max: readers.MaxOpenConnections + writer.MaxOpenConnections, Waits: readers.WaitCount + writer.WaitCount,
	}
}

// Close implements models.Engine.
func (e *engine) Close() error {
	return errors.Join(e.writer.close(), e.readers.Close())
}

// Sentinel implements models.Engine; see https://www.sqlite.org/rescode.html.
func (e *engine) Sentinel(err error) error {
	var native *sqlitedriver.Error
	if !errors.As(err, &native) {
		return nil
	}
	switch native.Code() {
	case sqlitelib.SQLITE_CONSTRAINT_UNIQUE, sqlitelib.SQLITE_CONSTRAINT_PRIMARYKEY:
		return models.ErrAlreadyExists
	}
	switch native.Code() & 0xff {
	case sqlitelib.SQLITE_BUSY, sqlitelib.SQLITE_LOCKED, sqlitelib.SQLITE_IOERR, sqlitelib.SQLITE_FULL,
		sqlitelib.SQLITE_CANTOPEN, sqlitelib.SQLITE_READONLY:
		return models.ErrUnavailable
	}
	return nil
}
