package models

import (
	"context"
	"slices"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

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
