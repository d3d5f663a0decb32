package models

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

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
	db := s.orm().WithContext(ctx).Where("customer_id = ? AND project_id = ?", customerID, projectID)
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
	return p.records.add(ctx, r)
}

// recordFetches stores a group at once. It does not wait for the disk: what that could lose is records, not keys.
const recordFetches = `WITH quick AS (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO fetches (` + fetchColumns + `) SELECT r.* FROM quick,
unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::integer[], $10::text[],
$11::text[], $12::text[]) AS r`

// maxRecords bounds how many records one commit carries.
const maxRecords = 256

// recorder is Postgres' writer of fetch records: those that wait while one group is under way make up the next.
type recorder struct {
	pool    *pgxpool.Pool
	timeout time.Duration
	queue   chan *record
	stop    chan struct{}
	done    chan struct{}
}

type record struct {
	FetchRecord
	err    error
	finish chan struct{}
}

func newRecorder(pool *pgxpool.Pool, timeout time.Duration) *recorder {
	r := &recorder{pool: pool, timeout: timeout, queue: make(chan *record, maxRecords), stop: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

// add returns when the record is committed, or was not. One that the caller gave up on may have been.
func (r *recorder) add(ctx context.Context, fetch FetchRecord) error {
	item := &record{FetchRecord: fetch, finish: make(chan struct{})}
	select {
	case r.queue <- item:
	case <-r.stop:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-item.finish:
		return item.err
	case <-r.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *recorder) close() {
	close(r.stop)
	<-r.done
}

func (r *recorder) run() {
	defer close(r.done)
	for {
		select {
		case <-r.stop:
			return
		case first := <-r.queue:
			group := gather(r.queue, first, maxRecords)
			err := r.store(group)
			for _, item := range group {
				if item.err = err; len(group) > 1 && isRefused(err) { // for the sake of one of them: a zero byte in its text, say
					item.err = r.store([]*record{item})
				}
				close(item.finish)
			}
		}
	}
}

func (r *recorder) store(group []*record) error {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	column := func(text func(FetchRecord) string) []string {
		values := make([]string, len(group))
		for i, item := range group {
			values[i] = text(item.FetchRecord)
		}
		return values
	}
	times, versions := make([]int64, len(group)), make([]uint32, len(group))
	for i, item := range group {
		times[i], versions[i] = item.At, item.Version
	}
	_, err := r.pool.Exec(ctx, recordFetches, times,
		column(func(f FetchRecord) string { return f.DataPlaneID }), column(func(f FetchRecord) string { return f.CustomerID }),
		column(func(f FetchRecord) string { return f.ProjectID }), column(func(f FetchRecord) string { return f.UserID }),
		column(func(f FetchRecord) string { return f.TokenID }), column(func(f FetchRecord) string { return f.Provider }),
		column(func(f FetchRecord) string { return f.KeyID }), versions,
		column(func(f FetchRecord) string { return string(f.Decision) }), column(func(f FetchRecord) string { return f.Reason }),
		column(func(f FetchRecord) string { return f.RequestID }))
	return err
}
