package models

import (
	"context"

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

// Canary returns the sealed canary: ErrNotFound before the first start.
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

// RewrapCanary replaces the canary's envelope, and reports whether it was still the old one.
func (s *Store) RewrapCanary(ctx context.Context, old []byte, c Canary) (stored bool, err error) {
	err = s.Transact(ctx, func(tx *Tx) error {
		done := tx.db.Model(&Canary{}).Where("id = 1 AND envelope = ?", old).
			Updates(map[string]any{"envelope": c.Envelope, "kek_id": c.KEKID})
		stored = done.RowsAffected == 1
		return done.Error
	})
	return stored, err
}
