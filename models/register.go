package models

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// Registration is all that one register stores, in one transaction.
type Registration struct {
	Key   Key
	Event Event
	// Idempotency is nil when the request has no Idempotency-Key.
	Idempotency *IdempotencyRecord
}

// IdempotencyRecord is the key that a request with an Idempotency-Key made.
type IdempotencyRecord struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	UserID     string `gorm:"primaryKey"`
	// KeyHash is the SHA-256 of the Idempotency-Key, whose text may hold anything.
	KeyHash []byte `gorm:"primaryKey"`
	// Fingerprint is a MAC over the request, to tell a retry from a reuse.
	Fingerprint []byte
	KeyID       string
	CreatedAt   int64 `gorm:"autoCreateTime:false"`
}

// IdempotencyLife is how long an Idempotency-Key is remembered.
const IdempotencyLife = 24 * time.Hour

// IdempotencyRow returns an idempotency record as the row to store.
func IdempotencyRow(r IdempotencyRecord) *Insert {
	return newInsert("idempotency_records").
		set("customer_id", r.CustomerID).set("project_id", r.ProjectID).set("user_id", r.UserID).set("key_hash", r.KeyHash).
		set("fingerprint", r.Fingerprint).set("key_id", r.KeyID).set("created_at", r.CreatedAt)
}

// RegisterKey stores the key, its event and its idempotency record, if the caller's role covers needs. It returns the key that
// stands: the new one, or the one that an earlier request with the same idempotency key made. Errors: ErrSessionEnded,
// ErrNotMember, ErrForbidden, ErrAlreadyExists for a name that is taken, ErrIdempotencyReuse.
func (s *Store) RegisterKey(ctx context.Context, c Caller, needs Role, r Registration, now int64) (Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	status, stored, err := s.engine.Register(ctx, c, needs, r, now)
	if err != nil {
		return Key{}, s.classify(err)
	}
	if err := status.Check(needs); err != nil {
		return Key{}, err
	}
	if stored {
		s.Wake()
		return r.Key, nil
	}
	if r.Idempotency == nil {
		return Key{}, errors.New("register: nothing was stored, without a reason")
	}
	return s.findReplayed(ctx, c, *r.Idempotency, now)
}

// findReplayed returns the key that the first request with an idempotency key made.
func (s *Store) findReplayed(ctx context.Context, c Caller, repeated IdempotencyRecord, now int64) (Key, error) {
	var first IdempotencyRecord
	err := s.orm(ctx).Where("customer_id = ? AND project_id = ? AND user_id = ? AND key_hash = ?",
		repeated.CustomerID, repeated.ProjectID, repeated.UserID, repeated.KeyHash).Take(&first).Error
	if err != nil {
		return Key{}, s.classify(err)
	}
	if !bytes.Equal(first.Fingerprint, repeated.Fingerprint) {
		return Key{}, ErrIdempotencyReuse
	}
	return s.GetKey(ctx, c, first.KeyID, now)
}

// ForgetIdempotency deletes the limit oldest of the records made before a time (microseconds), and returns how many.
func (tx *Tx) ForgetIdempotency(before int64, limit int) (int64, error) {
	oldest := tx.db.Model(&IdempotencyRecord{}).Select("created_at").Where("created_at < ?", before).
		Order("created_at").Limit(limit)
	done := tx.db.Where("created_at <= (SELECT MAX(created_at) FROM (?) AS oldest)", oldest).Delete(&IdempotencyRecord{})
	return done.RowsAffected, done.Error
}
