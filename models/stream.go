package models

import (
	"context"
	"slices"

	"gorm.io/gorm/clause"
)

// Stream is the connection over which a data plane is told of changes. Its row outlives the connection by the lease that the
// data plane may still hold.
type Stream struct {
	// ID is a ULID.
	ID          string `gorm:"primaryKey"`
	DataPlaneID string
	ReplicaID   string
	// MaxStaleMs is how much longer than its lease the data plane serves from its cache while nobody answers.
	MaxStaleMs int
	// Position is where the stream began, Settled its xmin: the data plane has heard of what these hold by other means.
	Position string
	Settled  int64
	// Forwarded is a position that the data plane acknowledged at another replica; empty when there is none.
	Forwarded string
}

// Replica is a running process that serves streams. Its beat counts up while it lives.
type Replica struct {
	ID   string `gorm:"primaryKey"`
	Beat int64
}

// OpenStream stores a stream, in place of the one that it carries on: previous, which is empty when there is none.
func (s *Store) OpenStream(ctx context.Context, stream Stream, previous string) error {
	return s.transactOn(ctx, backgroundPool, func(tx *Tx) error {
		if previous != "" {
			err := tx.db.Where("id = ? AND data_plane_id = ?", previous, stream.DataPlaneID).Delete(&Stream{}).Error
			if err != nil {
				return err
			}
		}
		return tx.db.Create(&stream).Error
	})
}

// DropStreams deletes streams whose leases have run out.
func (s *Store) DropStreams(ctx context.Context, ids []string) error {
	return s.transactOn(ctx, backgroundPool, func(tx *Tx) error {
		return tx.db.Where("id IN ?", ids).Delete(&Stream{}).Error
	})
}

// ForwardAcknowledgement leaves a position for the replica that has the stream: ErrNotFound when there is no such stream of
// the data plane.
func (s *Store) ForwardAcknowledgement(ctx context.Context, id, dataPlaneID string, at Position) error {
	return s.transactOn(ctx, backgroundPool, func(tx *Tx) error {
		done := tx.db.Model(&Stream{}).Where("id = ? AND data_plane_id = ?", id, dataPlaneID).Update("forwarded", at.String())
		if done.Error == nil && done.RowsAffected == 0 {
			return ErrNotFound
		}
		return done.Error
	})
}

// TakeForwarded returns the streams of a replica with forwarded positions, and clears them.
func (s *Store) TakeForwarded(ctx context.Context, replicaID string) ([]Stream, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var waiting []Stream
	err := s.orm(reservedPool).WithContext(ctx).Where("replica_id = ? AND forwarded <> ''", replicaID).Find(&waiting).Error
	if err != nil || len(waiting) == 0 {
		return nil, s.classify(err)
	}
	err = s.transact(ctx, reservedPool, func(tx *Tx) error {
		for _, stream := range waiting {
			cleared := tx.db.Model(&Stream{}).Where("id = ? AND forwarded = ?", stream.ID, stream.Forwarded).Update("forwarded", "")
			if cleared.Error != nil {
				return cleared.Error
			}
		}
		return nil
	})
	return waiting, s.classify(err)
}

// StreamIDs returns the ids of a replica's streams.
func (s *Store) StreamIDs(ctx context.Context, replicaID string) ([]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var ids []string
	err := s.orm(backgroundPool).WithContext(ctx).Model(&Stream{}).Where("replica_id = ?", replicaID).Pluck("id", &ids).Error
	return ids, s.classify(err)
}

// LongestStale returns the greatest MaxStaleMs of all streams whose data planes serve a customer.
func (s *Store) LongestStale(ctx context.Context, customerID string) (int, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var open []struct {
		MaxStaleMs int
		Customers  []string `gorm:"serializer:json"`
	}
	err := s.orm(requestPool).WithContext(ctx).Table("streams").Distinct("streams.max_stale_ms", "data_planes.customers").
		Joins("JOIN data_planes ON data_planes.id = streams.data_plane_id").Find(&open).Error
	longest := 0
	for _, stream := range open {
		if (DataPlane{Customers: stream.Customers}).Serves(customerID) {
			longest = max(longest, stream.MaxStaleMs)
		}
	}
	return longest, s.classify(err)
}

// Beat says that a replica lives.
func (s *Store) Beat(ctx context.Context, replicaID string) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	const beat = `INSERT INTO replicas (id, beat) VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET beat = replicas.beat + 1`
	return s.classify(s.asideExec(ctx, beat, replicaID))
}

// Replicas returns all replicas that beat, and those with streams that never did, as of beat zero.
func (s *Store) Replicas(ctx context.Context) ([]Replica, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all []Replica
	err := s.orm(backgroundPool).WithContext(ctx).Raw(`SELECT id, MAX(beat) AS beat FROM (SELECT id, beat FROM replicas
UNION ALL SELECT DISTINCT replica_id, 0 FROM streams) AS known GROUP BY id ORDER BY id`).Scan(&all).Error
	return all, s.classify(err)
}

// BuryReplica deletes the streams of a replica that has not beaten for so long that leases of up to maxStaleMs have run out,
// and the replica with the last of them.
func (s *Store) BuryReplica(ctx context.Context, id string, maxStaleMs int) error {
	return s.transactOn(ctx, backgroundPool, func(tx *Tx) error {
		if err := tx.db.Where("replica_id = ? AND max_stale_ms <= ?", id, maxStaleMs).Delete(&Stream{}).Error; err != nil {
			return err
		}
		return tx.db.Where("id = ? AND NOT EXISTS (SELECT 1 FROM streams WHERE replica_id = ?)", id, id).Delete(&Replica{}).Error
	})
}

// Receipt is what the data planes at one replica have acknowledged of one revocation.
type Receipt struct {
	KeyID     string `gorm:"primaryKey"`
	ReplicaID string `gorm:"primaryKey"`
	// DataPlanes had to acknowledge it, Acknowledged have.
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
	return s.transactOn(ctx, backgroundPool, func(tx *Tx) error {
		return tx.db.Clauses(clause.OnConflict{UpdateAll: true}).Create(&receipts).Error
	})
}

// Receipts returns the receipts of a key's revocation, and how many streams may not have heard of it at replicas that have
// made none yet.
func (s *Store) Receipts(ctx context.Context, k Key) (receipts []Receipt, unheard int, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	db := s.orm(requestPool).WithContext(ctx)
	var open []struct {
		ReplicaID string
		Position  string
		Customers []string `gorm:"serializer:json"`
	}
	err = db.Table("streams").Select("streams.replica_id, streams.position, data_planes.customers").
		Joins("JOIN data_planes ON data_planes.id = streams.data_plane_id").
		Where("streams.settled <= ?", k.RevocationTx).Find(&open).Error
	// The streams first: a receipt that is made in between accounts for them, a stream that ends in between does not.
	if err == nil {
		err = db.Where("key_id = ?", k.ID).Find(&receipts).Error
	}
	if err != nil {
		return nil, 0, s.classify(err)
	}
	for _, stream := range open {
		began, badPosition := ParsePosition(stream.Position)
		made := slices.ContainsFunc(receipts, func(r Receipt) bool { return r.ReplicaID == stream.ReplicaID })
		if (badPosition != nil || !began.Holds(k.RevocationTx)) && (DataPlane{Customers: stream.Customers}).Serves(k.CustomerID) && !made {
			unheard++
		}
	}
	return receipts, unheard, nil
}
