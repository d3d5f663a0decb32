package models

import (
	"context"
	"slices"

	"gorm.io/gorm/clause"

	"github.com/agentrouter/aikeys/internal/position"
)

// Receipt is what the data planes at one replica have acknowledged of one revocation.
type Receipt struct {
	KeyID     string `gorm:"primaryKey"`
	ReplicaID string `gorm:"primaryKey"`
	// DataPlanes is how many had to acknowledge it, Acknowledged how many have.
	DataPlanes   int
	Acknowledged int
	// SlowestUs is how long the slowest acknowledgement took, in microseconds.
	SlowestUs int64
}

// SaveReceipts stores receipts in place of earlier ones.
func (s *Store) SaveReceipts(ctx context.Context, receipts []Receipt) error {
	if len(receipts) == 0 {
		return nil
	}
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		return tx.db.Clauses(clause.OnConflict{UpdateAll: true}).Create(&receipts).Error
	})
}

// Receipts returns the receipts of a key's revocation. unheard is how many streams may not have been told of it yet: they began
// before it, and are at replicas that have made no receipt.
func (s *Store) Receipts(ctx context.Context, k Key) (receipts []Receipt, unheard int, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var open []struct{ ReplicaID, Position string }
	err = s.servedStreams(ctx, k.CustomerID).Select("streams.replica_id, streams.position").
		Where("streams.settled <= ? AND streams.replica_id NOT IN (SELECT replica_id FROM receipts WHERE key_id = ?)", k.RevocationTx, k.ID).
		Find(&open).Error
	// The streams first: a receipt that is made between the two reads accounts for them.
	if err == nil {
		err = s.orm(ctx).Where("key_id = ?", k.ID).Find(&receipts).Error
	}
	if err != nil {
		return nil, 0, s.classify(err)
	}
	for _, stream := range open {
		began, invalid := position.Parse(stream.Position)
		told := invalid == nil && began.Contains(k.RevocationTx)
		if !told && !slices.ContainsFunc(receipts, func(r Receipt) bool { return r.ReplicaID == stream.ReplicaID }) {
			unheard++
		}
	}
	return receipts, unheard, nil
}
