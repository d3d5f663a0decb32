package models

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Tx is an open transaction. It serves one goroutine, until the function it was given to returns.
type Tx struct {
	db *gorm.DB
	// txNumber is the expression of the number that the transaction gives to its next event.
	txNumber string
	// Now is the transaction's one time, in microseconds.
	Now int64
	// owes are the customers of whom something changed that no event has told since.
	owes []string
}

// errUnannounced is a fault of ours: data planes would not have heard of a change.
var errUnannounced = errors.New("transaction undone: it changed what data planes go by, and appended no event that says so")

// carryOut runs fn, whose changes may be committed if it returns nil. What data planes must hear of may not without the event
// that announces it.
func (tx *Tx) carryOut(fn func(*Tx) error) error {
	if err := fn(tx); err != nil {
		return err
	}
	if len(tx.owes) > 0 {
		return errUnannounced
	}
	return nil
}

func (tx *Tx) owe(customerID string) { tx.owes = append(tx.owes, customerID) }

func (tx *Tx) queryRow(sql string, args ...any) *sql.Row {
	return tx.db.Statement.ConnPool.QueryRowContext(tx.context(), sql, args...)
}

func (tx *Tx) exec(sql string, args []any) (int64, error) {
	done, err := tx.db.Statement.ConnPool.ExecContext(tx.context(), sql, args...)
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}

func (tx *Tx) context() context.Context { return tx.db.Statement.Context }

// Role returns the caller's role, which stays as it is until the transaction ends: ErrSessionEnded or ErrNotMember.
func (tx *Tx) Role(c Caller) (Role, error) {
	if err := tx.lockProject(c.CustomerID, c.ProjectID); err != nil {
		return "", err
	}
	var who standing
	err := tx.queryRow(roleSQL, callerArgs(c, tx.Now)...).Scan(&who.live, &who.role)
	if err != nil {
		return "", err
	}
	return who.role, who.check(RoleMember)
}

// lockProject makes writers of one project's members take turns. A project that is not there locks nothing.
func (tx *Tx) lockProject(customerID, projectID string) error {
	return tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).
		Where("customer_id = ? AND project_id = ?", customerID, projectID).Find(&[]Project{}).Error
}

// lockKey reads a key, if it is there, which no other transaction can change until this one ends.
func (tx *Tx) lockKey(id string, into *[]Key) error {
	return tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).Omit("envelope").Where("id = ?", id).Find(into).Error
}

// Key returns a key as the caller may see it, without its envelope: ErrNotFound.
func (tx *Tx) Key(c Caller, id string) (Key, error) {
	var k Key
	err := tx.db.Omit("envelope").Where("id = ? AND customer_id = ? AND project_id = ? AND user_id IN ?",
		id, c.CustomerID, c.ProjectID, []string{"", c.UserID}).Take(&k).Error
	return k, err
}

// RevokeKey marks the key revoked and returns true, unless it was already; then the first revocation stands. The event that
// says so must be the next that the transaction appends; without it, nothing of the transaction is committed.
func (tx *Tx) RevokeKey(k *Key, by string) (bool, error) {
	done, err := tx.exec(`UPDATE ai_keys SET revoked_at = $1, revoked_by = $2, revocation_tx = `+tx.txNumber+`
WHERE id = $3 AND revoked_at = 0`, []any{tx.Now, by, k.ID})
	if err != nil {
		return false, err
	}
	err = tx.db.Select("customer_id", "revoked_at", "revoked_by", "revocation_tx").Where("id = ?", k.ID).Take(k).Error
	if done == 1 {
		tx.owe(k.CustomerID)
	}
	return done == 1, err
}

// AppendEvent adds to the audit trail, from which data planes learn what was allowed.
func (tx *Tx) AppendEvent(e Event) error {
	_, err := tx.exec(insertEvent+`VALUES (`+tx.txNumber+`, `+params(1, 17)+`)`, eventArgs(e))
	if err == nil && e.Outcome == OutcomeAllowed {
		tx.owes = slices.DeleteFunc(tx.owes, func(customerID string) bool { return customerID == e.CustomerID })
	}
	return err
}

// SetPolicy puts a policy in force. The transaction must append the event that says so, or it is not committed.
func (tx *Tx) SetPolicy(p *Policy, by string) error {
	p.UpdatedAt, p.UpdatedBy = tx.Now, by
	if p.UserKeysByProvider == nil {
		p.UserKeysByProvider = map[string]UserKeys{} // the column holds an object, and GORM makes NULL of nil
	}
	tx.owe(p.CustomerID)
	return tx.db.Clauses(clause.OnConflict{UpdateAll: true}).Create(p).Error
}

// EnsureProject makes the project where it is not there yet.
func (tx *Tx) EnsureProject(customerID, projectID string) error {
	p := Project{CustomerID: customerID, ProjectID: projectID, CreatedAt: tx.Now}
	return tx.db.Clauses(clause.OnConflict{DoNothing: true}).Create(&p).Error
}

// SetMember gives a user a role in a project that exists: ErrLastOwner when that would take the last owner's.
func (tx *Tx) SetMember(customerID, projectID, userID string, role Role) (Member, error) {
	if err := tx.lockProject(customerID, projectID); err != nil {
		return Member{}, err
	}
	m := Member{CustomerID: customerID, ProjectID: projectID, UserID: userID, Role: role, CreatedAt: tx.Now, UpdatedAt: tx.Now}
	err := tx.db.Clauses(clause.OnConflict{
		Columns:   []clause.Column{{Name: "customer_id"}, {Name: "project_id"}, {Name: "user_id"}},
		DoUpdates: clause.AssignmentColumns([]string{"role", "updated_at"}),
	}).Create(&m).Error
	if err != nil {
		return Member{}, err
	}
	if err := tx.requireOwner(customerID, projectID); err != nil {
		return Member{}, err
	}
	err = tx.member(customerID, projectID, userID).Take(&m).Error
	return m, err
}

// RemoveMember takes a user out of a project: ErrNotFound, or ErrLastOwner. The transaction must append the event that says so,
// or it is not committed.
func (tx *Tx) RemoveMember(customerID, projectID, userID string) error {
	if err := tx.lockProject(customerID, projectID); err != nil {
		return err
	}
	done := tx.member(customerID, projectID, userID).Delete(&Member{})
	if done.Error != nil {
		return done.Error
	}
	if done.RowsAffected == 0 {
		return ErrNotFound
	}
	tx.owe(customerID)
	return tx.requireOwner(customerID, projectID)
}

func (tx *Tx) member(customerID, projectID, userID string) *gorm.DB {
	return tx.db.Where("customer_id = ? AND project_id = ? AND user_id = ?", customerID, projectID, userID)
}

// requireOwner keeps the last owner: ErrLastOwner.
func (tx *Tx) requireOwner(customerID, projectID string) error {
	var owners int64
	err := tx.db.Model(&Member{}).Where("customer_id = ? AND project_id = ? AND role = ?", customerID, projectID, RoleOwner).
		Limit(1).Count(&owners).Error
	if err != nil {
		return err
	}
	if owners == 0 {
		return ErrLastOwner
	}
	return nil
}

// CreateToken stores an API key of ours.
func (tx *Tx) CreateToken(t Token) error { return tx.db.Create(&t).Error }

// RevokeToken ends an API key for good and returns it: ErrNotFound. Revoking again keeps the first time. When it did end it,
// the transaction must append the event that says so, or it is not committed.
func (tx *Tx) RevokeToken(customerID, projectID, id string) (Token, error) {
	var t Token
	err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).
		Where("id = ? AND customer_id = ? AND project_id = ?", id, customerID, projectID).Take(&t).Error
	if err != nil || t.RevokedAt != 0 {
		return t, err
	}
	t.RevokedAt = tx.Now
	tx.owe(customerID)
	return t, tx.db.Model(&Token{}).Where("id = ?", id).Update("revoked_at", tx.Now).Error
}

// KeepCanary stores the canary unless there is one, and returns the one that stands.
func (tx *Tx) KeepCanary(c Canary) (Canary, error) {
	c.ID, c.CreatedAt = 1, tx.Now
	if err := tx.db.Clauses(clause.OnConflict{DoNothing: true}).Create(&c).Error; err != nil {
		return Canary{}, err
	}
	err := tx.db.Where("id = 1").Take(&c).Error
	return c, err
}

// ForgetIdempotency deletes the limit oldest of the records made before a time (microseconds), and returns how many.
func (tx *Tx) ForgetIdempotency(before int64, limit int) (int64, error) {
	oldest := tx.db.Model(&IdempotencyRecord{}).Select("created_at").Where("created_at < ?", before).
		Order("created_at").Limit(limit)
	done := tx.db.Where("created_at <= (SELECT MAX(created_at) FROM (?) AS oldest)", oldest).Delete(&IdempotencyRecord{})
	return done.RowsAffected, done.Error
}
