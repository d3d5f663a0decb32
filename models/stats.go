package models

import "context"

// PoolStats counts a store's connections to its database, as of now.
type PoolStats struct {
	// InUse are at work, Idle wait for some; Max is how many there may be.
	InUse, Idle, Max int
	// Waits is how often no connection was idle, and one had to be opened or waited for, since the store was opened.
	Waits int64
}

// Stats returns the state of the pool. On SQLite that is the readers' connections and the writer's one.
func (s *Store) Stats() PoolStats {
	switch e := s.engine.(type) {
	case *postgresEngine:
		stat := e.Stat()
		return PoolStats{
			InUse: int(stat.AcquiredConns()), Idle: int(stat.IdleConns()), Max: int(stat.MaxConns()),
			Waits: stat.EmptyAcquireCount(),
		}
	case *sqliteEngine:
		readers, writer := e.readers.Stats(), e.writer.db.Stats()
		return PoolStats{
			InUse: readers.InUse + writer.InUse, Idle: readers.Idle + writer.Idle,
			Max: readers.MaxOpenConnections + writer.MaxOpenConnections, Waits: readers.WaitCount + writer.WaitCount,
		}
	}
	return PoolStats{}
}

// KeysByKEK counts the keys, revoked ones included, that are sealed with each key-encryption key.
func (s *Store) KeysByKEK(ctx context.Context) (map[string]int64, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var rows []struct {
		KEKID string `gorm:"column:kek_id"`
		Keys  int64
	}
	err := s.orm(requestPool).WithContext(ctx).Model(&Key{}).Select("kek_id, COUNT(*) AS keys").Group("kek_id").Scan(&rows).Error
	if err != nil {
		return nil, s.classify(err)
	}
	counts := make(map[string]int64, len(rows))
	for _, row := range rows {
		counts[row.KEKID] = row.Keys
	}
	return counts, nil
}
