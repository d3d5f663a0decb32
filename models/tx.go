package models

import (
	"cmp"
	"context"
	"database/sql"
	"errors"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Tx is an open transaction. It serves one goroutine, until the function it was given to returns.
type Tx struct {
	db *gorm.DB
	// number is the SQL expression of the transaction's number, which its events are stored with.
	number string
	// Now is the transaction's one time, in microseconds.
	Now int64
}

// NewTx returns a transaction that an engine has begun on db.
func NewTx(db *gorm.DB, number string, now int64) *Tx { return &Tx{db: db, number: number, Now: now} }

// exec runs a hand-written write, and returns how many rows it changed.
func (tx *Tx) exec(statement string, args []any) (int64, error) {
	done, err := tx.db.Statement.ConnPool.ExecContext(tx.context(), statement, args...)
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}

// queryRow runs a hand-written read that returns one row.
func (tx *Tx) queryRow(statement string, args []any, dest ...any) error {
	rows, err := tx.db.Statement.ConnPool.QueryContext(tx.context(), statement, args...)
	if err != nil {
		return err
	}
	return ScanRow(rows, dest...)
}

// ScanRow reads the only row of a result, and closes it. Without a row it returns sql.ErrNoRows.
func ScanRow(rows *sql.Rows, dest ...any) error {
	defer func() { _ = rows.Close() }()
	if !rows.Next() {
		return cmp.Or(rows.Err(), sql.ErrNoRows)
	}
	return errors.Join(rows.Scan(dest...), rows.Close())
}

func (tx *Tx) context() context.Context { return tx.db.Statement.Context }

// Role returns the caller's role, which stays as it is until the transaction ends. Errors: ErrSessionEnded, ErrNotMember.
func (tx *Tx) Role(c Caller) (Role, error) {
	if err := tx.lockProject(c.CustomerID, c.ProjectID); err != nil {
		return "", err
	}
	var status CallerStatus
	err := tx.queryRow(CallerStatement, CallerParams(c, tx.Now), &status.Live, &status.Role)
	if err != nil {
		return "", err
	}
	return status.Role, status.Check(RoleMember)
}

// lockProject makes writers of one project's members take turns. A project that does not exist locks nothing.
func (tx *Tx) lockProject(customerID, projectID string) error {
	return tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).
		Where("customer_id = ? AND project_id = ?", customerID, projectID).Find(&[]Project{}).Error
}
