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
	// KeyID and Version are those of the key that was given out, or asked for by its id, or found revoked or unreadable; empty
	// and zero where there was none.
	KeyID    string
	Version  uint32
	Decision Outcome
	// Reason is the reason code of the resolution, or why it was refused.
	Reason    string
	RequestID string
}

// TableName says what there are records of.
func (FetchRecord) TableName() string { return "fetches" }

const fetchColumns = `at, data_plane_id, customer_id, project_id, user_id, token_id, provider, key_id, version, decision, reason, request_id`

// RecordFetch stores the record of a fetch. It has been committed when RecordFetch returns, and so outlives this process; on
// Postgres the commit may be a moment short of the disk, which a crash of the database server would lose.
func (s *Store) RecordFetch(ctx context.Context, r FetchRecord) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.recordFetch(ctx, r))
}

// ListFetches returns a page of a project's fetches, newest first. before is the id of the last one of the page before; zero
// begins with the newest.
func (s *Store) ListFetches(ctx context.Context, customerID, projectID string, before int64, limit int) ([]FetchRecord, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	db := s.orm(requestPool).WithContext(ctx).Where("customer_id = ? AND project_id = ?", customerID, projectID)
	if before > 0 {
		db = db.Where("id < ?", before)
	}
	var page []FetchRecord
	err := db.Order("id DESC").Limit(limit).Find(&page).Error
	return page, s.classify(err)
}

// ForgetFetches deletes the limit oldest of the records made before a time (microseconds), and returns how many. They are
// looked for among the limit records that were stored first: an index on their time would cost every fetch.
func (tx *Tx) ForgetFetches(before int64, limit int) (int64, error) {
	oldest := tx.db.Model(&FetchRecord{}).Select("id").Order("id").Limit(limit)
	done := tx.db.Where("id IN (?) AND at < ?", oldest, before).Delete(&FetchRecord{})
	return done.RowsAffected, done.Error
}

func (e *sqliteEngine) recordFetch(ctx context.Context, r FetchRecord) error {
	return e.writer.do(ctx, func(tx *Tx) error {
		_, err := tx.exec(`INSERT INTO fetches (`+fetchColumns+`) VALUES (`+params(1, 12)+`)`, []any{r.At, r.DataPlaneID,
			r.CustomerID, r.ProjectID, r.UserID, r.TokenID, r.Provider, r.KeyID, r.Version, r.Decision, r.Reason, r.RequestID})
		return err
	})
}

func (p *postgresEngine) recordFetch(ctx context.Context, r FetchRecord) error {
	return p.records.Do(ctx, r)
}
