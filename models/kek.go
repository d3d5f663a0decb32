package models

import (
	"context"
	"slices"

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
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var found int64
	err := s.orm(ctx).Model(&KEK{}).Where("id = ?", id).Count(&found).Error
	return found > 0, s.classify(err)
}

// AddKEKs stores the ids of KEKs that belong to this database's keyset. If all of them are there, it writes nothing.
func (s *Store) AddKEKs(ctx context.Context, ids []string) error {
	ids = slices.Compact(slices.Sorted(slices.Values(ids))) // in one order, so that two processes don't deadlock
	var known int64
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	err := s.orm(bounded).Model(&KEK{}).Where("id IN ?", ids).Count(&known).Error
	if err != nil || int(known) == len(ids) {
		return s.classify(err)
	}
	return s.Transact(ctx, func(tx *Tx) error {
		rows := make([]KEK, len(ids))
		for i, id := range ids {
			rows[i] = KEK{id, tx.Now}
		}
		return tx.db.Clauses(clause.OnConflict{DoNothing: true}).Create(rows).Error
	})
}
