package models

import (
	"context"

	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/internal/position"
)

// Stream is the connection over which a data plane is told of changes. Its row outlives the connection by the lease that the
// data plane may still hold.
type Stream struct {
	// ID is a ULID.
	ID          string `gorm:"primaryKey"`
	DataPlaneID string
	ReplicaID   string
	// MaxStaleMs is how much longer than its lease the data plane serves from its cache while no replica answers.
	MaxStaleMs int
	// Position is where the stream began, Settled its xmin. The data plane knows what is in it without the stream.
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

// OpenStream stores a stream, in place of the stream that it continues: previous, which is empty when there is none.
func (s *Store) OpenStream(ctx context.Context, stream Stream, previous string) error {
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
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
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		return tx.db.Where("id IN ?", ids).Delete(&Stream{}).Error
	})
}

// ForwardAcknowledgement stores an acknowledged position for the replica that has the stream: ErrNotFound when the data plane
// has no such stream.
func (s *Store) ForwardAcknowledgement(ctx context.Context, id, dataPlaneID string, at position.Position) error {
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		done := tx.db.Model(&Stream{}).Where("id = ? AND data_plane_id = ?", id, dataPlaneID).Update("forwarded", at.String())
		if done.Error == nil && done.RowsAffected == 0 {
			return ErrNotFound
		}
		return done.Error
	})
}

// TakeForwarded returns the streams of a replica that have forwarded positions, and clears these.
func (s *Store) TakeForwarded(ctx context.Context, replicaID string) ([]Stream, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var waiting []Stream
	err := s.engine.ORM(ReservedPool).WithContext(ctx).Where("replica_id = ? AND forwarded <> ''", replicaID).Find(&waiting).Error
	if err != nil || len(waiting) == 0 {
		return nil, s.classify(err)
	}
	err = s.engine.Transact(ctx, ReservedPool, func(tx *Tx) error {
		for _, stream := range waiting {
			// Unless a later position has been forwarded by now, which the next call returns.
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
	err := s.background(ctx).Model(&Stream{}).Where("replica_id = ?", replicaID).Pluck("id", &ids).Error
	return ids, s.classify(err)
}

// background returns GORM over the connections for the feed's bookkeeping.
func (s *Store) background(ctx context.Context) *gorm.DB {
	return s.engine.ORM(BackgroundPool).WithContext(ctx)
}

// LongestStale returns the greatest MaxStaleMs of all streams whose data planes serve a customer.
func (s *Store) LongestStale(ctx context.Context, customerID string) (int, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var longest int
	err := s.servedStreams(ctx, customerID).Select("COALESCE(MAX(streams.max_stale_ms), 0)").Scan(&longest).Error
	return longest, s.classify(err)
}

// servedStreams selects the streams whose data planes serve a customer. Ids need no escaping in JSON, so that a list of
// customers holds one if it holds its id in quotes.
func (s *Store) servedStreams(ctx context.Context, customerID string) *gorm.DB {
	return s.orm(ctx).Model(&Stream{}).Joins("JOIN data_planes d ON d.id = streams.data_plane_id").
		Where("(d.customers = 'null' OR REPLACE(d.customers, ?, '') <> d.customers)", `"`+customerID+`"`)
}

// CountStreams returns how many streams each data plane has, by its id. Data planes without streams are left out.
func (s *Store) CountStreams(ctx context.Context) (map[string]int, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var rows []struct {
		DataPlaneID string
		Streams     int
	}
	err := s.orm(ctx).Model(&Stream{}).Select("data_plane_id, count(*) AS streams").Group("data_plane_id").Find(&rows).Error
	counts := make(map[string]int, len(rows))
	for _, row := range rows {
		counts[row.DataPlaneID] = row.Streams
	}
	return counts, s.classify(err)
}

// Beat stores that a replica lives.
func (s *Store) Beat(ctx context.Context, replicaID string) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.engine.Transact(ctx, ReservedPool, func(tx *Tx) error {
		return tx.db.Exec(`INSERT INTO replicas (id, beat) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET beat = replicas.beat + 1`,
			replicaID).Error
	}))
}

// Replicas returns all replicas: those that have ever stored a beat, and at beat zero those that only have streams.
func (s *Store) Replicas(ctx context.Context) ([]Replica, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all []Replica
	err := s.background(ctx).Raw(`SELECT id, MAX(beat) AS beat FROM (SELECT id, beat FROM replicas
UNION ALL SELECT DISTINCT replica_id, 0 FROM streams) AS known GROUP BY id ORDER BY id`).Scan(&all).Error
	return all, s.classify(err)
}

// BuryReplica deletes the streams of a replica that has stored no beat for so long that leases of up to maxStaleMs have run out.
// It deletes the replica with the last of them.
func (s *Store) BuryReplica(ctx context.Context, id string, maxStaleMs int) error {
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		if err := tx.db.Where("replica_id = ? AND max_stale_ms <= ?", id, maxStaleMs).Delete(&Stream{}).Error; err != nil {
			return err
		}
		return tx.db.Where("id = ? AND NOT EXISTS (SELECT 1 FROM streams WHERE replica_id = ?)", id, id).Delete(&Replica{}).Error
	})
}
