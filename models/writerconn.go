package models

import (
	"context"
	"database/sql"
	"sync"
)

// maxPrepared bounds a writerConn's statements; what GORM makes of our methods is a few dozen texts.
const maxPrepared = 256

// writerConn is SQLite's writing connection with the statements prepared on it: to parse a statement costs more than to run
// it. It is a gorm.ConnPool.
type writerConn struct {
	conn     *sql.Conn
	mu       sync.Mutex
	prepared map[string]*sql.Stmt
}

func newWriterConn(ctx context.Context, db *sql.DB) (*writerConn, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &writerConn{conn: conn, prepared: map[string]*sql.Stmt{}}, nil
}

func (w *writerConn) statement(ctx context.Context, text string) (*sql.Stmt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stmt, ok := w.prepared[text]; ok {
		return stmt, nil
	}
	if len(w.prepared) >= maxPrepared {
		w.forget()
	}
	stmt, err := w.conn.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	w.prepared[text] = stmt
	return stmt, nil
}

// forget closes the statements; a close that fails leaves nothing to mend.
func (w *writerConn) forget() {
	for text, stmt := range w.prepared {
		_ = stmt.Close()
		delete(w.prepared, text)
	}
}

// PrepareContext returns the prepared statement. The caller must not close it.
func (w *writerConn) PrepareContext(ctx context.Context, text string) (*sql.Stmt, error) {
	return w.statement(ctx, text)
}

// ExecContext runs a statement.
func (w *writerConn) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	stmt, err := w.statement(ctx, text)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}

// QueryContext runs a query.
func (w *writerConn) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	stmt, err := w.statement(ctx, text)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

// QueryRowContext runs a query for one row.
func (w *writerConn) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	stmt, err := w.statement(ctx, text)
	if err != nil {
		return w.conn.QueryRowContext(ctx, text, args...) // tells the error; a Row can't be made with one
	}
	return stmt.QueryRowContext(ctx, args...)
}

func (w *writerConn) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget()
	return w.conn.Close()
}
