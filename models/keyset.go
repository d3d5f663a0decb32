package models

import (
	"context"
	"slices"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Canary is a sealed random value. A process that opens it at its start has the keyset that belongs to the database.
type Canary struct {
	ID        int `gorm:"primaryKey"`
	Envelope  []byte
	KEKID     string `gorm:"column:kek_id"`
	CreatedAt int64  `gorm:"autoCreateTime:false"`
}

// Canary returns the sealed canary. Errors: ErrNotFound before the first start.
func (s *Store) Canary(ctx context.Context) (Canary, error) {
	return take[Canary](ctx, s, func(db *gorm.DB) *gorm.DB { return db.Where("id = 1") })
}

// KeepCanary stores the canary if there is none yet, and returns the stored one.
func (tx *Tx) KeepCanary(c Canary) (Canary, error) {
	c.ID, c.CreatedAt = 1, tx.Now
	if err := tx.db.Clauses(clause.OnConflict{DoNothing: true}).Create(&c).Error; err != nil {
		return Canary{}, err
	}
	err := tx.db.Where("id = 1").Take(&c).Error
	return c, err
}

// RewrapCanary replaces the canary's envelope if it is still old. stored reports whether it did.
func (s *Store) RewrapCanary(ctx context.Context, old []byte, c Canary) (stored bool, err error) {
	err = s.Transact(ctx, func(tx *Tx) error {
		done := tx.db.Model(&Canary{}).Where("id = 1 AND envelope = ?", old).
			Updates(map[string]any{"envelope": c.Envelope, "kek_id": c.KEKID})
		stored = done.RowsAffected == 1
		return done.Error
	})
	return stored, err
}

// KEK is a key-encryption key that belongs to this database's keyset.
type KEK struct {
	ID      string `gorm:"primaryKey"`
	FoundAt int64  `gorm:"autoCreateTime:false"`
}

// TableName is the name of the table.
func (KEK) TableName() string { return "keks" }

// HasKEK reports whether AddKEKs has stored a KEK.
func (s *Store) HasKEK(ctx context.Context, id string) (bool, error) {
	known, err := s.countKEKs(ctx, id)
	return known > 0, err
}

func (s *Store) countKEKs(ctx context.Context, ids ...string) (known int64, err error) {
	err = s.read(ctx, func(db *gorm.DB) error {
		return db.Model(&KEK{}).Where("id IN ?", ids).Count(&known).Error
	})
	return known, err
}

// AddKEKs stores the ids of KEKs that belong to this database's keyset. If it has all of them, it writes nothing.
func (s *Store) AddKEKs(ctx context.Context, ids []string) error {
	ids = slices.Compact(slices.Sorted(slices.Values(ids))) // in one order, so that two processes don't deadlock
	known, err := s.countKEKs(ctx, ids...)
	if err != nil || int(known) == len(ids) {
		return err
	}
	return s.Transact(ctx, func(tx *Tx) error {
		rows := make([]KEK, len(ids))
		for i, id := range ids {
			rows[i] = KEK{id, tx.Now}
		}
		return tx.db.Clauses(clause.OnConflict{DoNothing: true}).Create(rows).Error
	})
}
