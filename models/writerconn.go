package models

import (
	"context"
	"database/sql"
	"errors"
)

// writerConn is SQLite's writing connection, with its prepared statements, as a gorm.ConnPool.
type writerConn struct {
	conn     *sql.Conn
	prepared prepared
}

func newWriterConn(ctx context.Context, db *sql.DB) (*writerConn, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &writerConn{conn: conn, prepared: prepared{on: conn}}, nil
}

// PrepareContext returns a statement that the caller must not close.
func (w *writerConn) PrepareContext(ctx context.Context, text string) (*sql.Stmt, error) {
	return w.prepared.get(ctx, text)
}

// ExecContext runs a statement.
func (w *writerConn) ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error) {
	stmt, err := w.prepared.get(ctx, text)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}

// QueryContext runs a query.
func (w *writerConn) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	stmt, err := w.prepared.get(ctx, text)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

// QueryRowContext runs a query for one row.
func (w *writerConn) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	stmt, err := w.prepared.get(ctx, text)
	if err != nil {
		return w.conn.QueryRowContext(ctx, bindSQLite(text), args...) // meets the same error; a Row can't be made with one
	}
	return stmt.QueryRowContext(ctx, args...)
}

func (w *writerConn) close() error { return errors.Join(w.prepared.close(), w.conn.Close()) }
