package models

import "context"

// FetchRecord is one fetch by a data plane, allowed or refused.
type FetchRecord struct {
	ID          int64
	At          int64
	DataPlaneID string
	CustomerID  string
	ProjectID   string
	UserID      string
	TokenID     string
	Provider    string
	// KeyID and Version are those of the key that was given out, asked for by its id, or found revoked or unreadable. They are
	// empty and zero where there was no such key.
	KeyID    string
	Version  uint32
	Decision Outcome
	// Reason is the reason code of the resolution, or why it was refused.
	Reason    string
	RequestID string
}

// TableName is the table's name.
func (FetchRecord) TableName() string { return "fetches" }

// RecordFetch stores the record of a fetch. When it returns, the record is committed, and so outlives this process. On
// PostgreSQL the commit may not have reached the disk yet: a crash of the database server would lose it.
func (s *Store) RecordFetch(ctx context.Context, r FetchRecord) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.engine.RecordFetch(ctx, r))
}

// ListFetches returns a page of a project's fetches, newest first. before is the id of the last one of the page before; zero
// begins with the newest.
func (s *Store) ListFetches(ctx context.Context, customerID, projectID string, before int64, limit int) ([]FetchRecord, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	db := s.orm(ctx).Where("customer_id = ? AND project_id = ?", customerID, projectID)
	if before > 0 {
		db = db.Where("id < ?", before)
	}
	var page []FetchRecord
	err := db.Order("id DESC").Limit(limit).Find(&page).Error
	return page, s.classify(err)
}

// ForgetFetches deletes the limit oldest of the records made before a time (microseconds), and returns how many. It
// searches the limit records that were stored first: an index on their time would cost every fetch.
func (tx *Tx) ForgetFetches(before int64, limit int) (int64, error) {
	oldest := tx.db.Model(&FetchRecord{}).Select("id").Order("id").Limit(limit)
	done := tx.db.Where("id IN (?) AND at < ?", oldest, before).Delete(&FetchRecord{})
	return done.RowsAffected, done.Error
}
