package models

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// recordFetches stores a group at once, of those that rest on memory only what has not changed: not for a customer of whom
// there is an event that the memory's position ($14, $15) lacks, and not through a data plane whose credential has ended. It
// does not wait for the disk: what that could lose is records, not keys. What orders by tx, and OFFSET 0, leave one index to
// go by, however small the tables were when it was planned.
const (
	recordFetches = `WITH quick AS (SELECT set_config('synchronous_commit', 'off', true)),
newest AS MATERIALIZED (SELECT COALESCE(MAX(tx), 0) AS tx FROM events WHERE tx < ` + postgresXmax + `),
changed AS MATERIALIZED (
  (SELECT customer_id FROM events WHERE tx >= $14 AND tx < ` + postgresXmax + ` AND outcome = 'allowed' ORDER BY tx LIMIT $16)
  UNION ALL (SELECT customer_id FROM events WHERE tx = ANY($15::bigint[]) AND outcome = 'allowed' ORDER BY tx LIMIT $16)
),
clear AS MATERIALIZED (SELECT (SELECT count(*) FROM changed) < $16 AND (SELECT tx FROM newest) >= $14 - 1 AS yes),
serving AS MATERIALIZED (
  SELECT id FROM (SELECT * FROM data_planes WHERE id = ANY($18::text[]) OFFSET 0) AS d
  WHERE revoked_at = 0 AND (expires_at = 0 OR expires_at > $17)
),
stored AS (
  INSERT INTO fetches (` + fetchColumns + `) SELECT ` + fetchColumns + ` FROM quick,
  unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::integer[],
    $10::text[], $11::text[], $12::text[], $13::boolean[]) AS r (` + fetchColumns + `, remembered)
  WHERE NOT remembered OR ((SELECT yes FROM clear) AND customer_id NOT IN (SELECT customer_id FROM changed)
    AND data_plane_id IN (SELECT id FROM serving))
)
SELECT pg_current_snapshot()::text || '/' || (SELECT tx FROM newest), ARRAY(SELECT DISTINCT customer_id FROM changed),
  ARRAY(SELECT id FROM serving), NOT (SELECT yes FROM clear)`

	// maxUnseen bounds how many changes are looked at for a group.
	maxUnseen = 1_000
)

// maxRecords bounds how many records one commit carries.
const maxRecords = 256

// recorder is Postgres' writer of fetch records: those that wait while one group is under way make up the next. It keeps the
// memory of fetches up to date, since it alone looks at what has changed.
type recorder struct {
	pool    *pgxpool.Pool
	timeout time.Duration
	memory  *fetchMemory
	queue   chan *record
	stop    chan struct{}
	done    chan struct{}
}

type record struct {
	FetchRecord
	// until is when it must be stored.
	until time.Time
	// rests is the memory that it rests on; nil where it was read.
	rests  *recollection
	asOf   string
	err    error
	finish chan struct{}
}

func newRecorder(pool *pgxpool.Pool, timeout time.Duration, memory *fetchMemory) *recorder {
	r := &recorder{
		pool: pool, timeout: timeout, memory: memory,
		queue: make(chan *record, maxRecords), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go r.run()
	return r
}

// add returns when the record is committed, with the position that the statement saw, or was not. One that the caller gave
// up on may have been.
func (r *recorder) add(ctx context.Context, item *record) (asOf string, err error) {
	item.finish, item.until = make(chan struct{}), time.Now().Add(r.timeout)
	select {
	case r.queue <- item:
	case <-r.stop:
		return "", errClosed
	case <-ctx.Done():
		return "", ctx.Err()
	}
	select {
	case <-item.finish:
	case <-r.done:
		err = errClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	select {
	case <-item.finish: // it may have been at the same time
		return item.asOf, item.err
	default:
		return "", err
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
			r.settle(gather(r.queue, first, maxRecords))
		}
	}
}

// settle records a group, and tells each what came of theirs.
func (r *recorder) settle(group []*record) {
	group, since := r.memory.admit(group)
	if len(group) == 0 {
		return
	}
	saw, err := r.store(group, since)
	if err != nil {
		r.memory.forget()
		r.fail(group, err)
		return
	}
	r.memory.learn(saw)
	for _, item := range group {
		if item.asOf = saw.asOf; item.rests != nil && !saw.covers(item) {
			item.err = ErrChanged
		}
		close(item.finish)
	}
}

// fail hands out an error, except where it is due to one of the group: a zero byte in its text, say.
func (r *recorder) fail(group []*record, err error) {
	for _, item := range group {
		switch item.err = err; {
		case len(group) == 1 || !isRefused(err):
		case item.rests != nil:
			item.err = ErrChanged
		default:
			_, item.err = r.store([]*record{item}, everything)
		}
		close(item.finish)
	}
}

// refuse says that what a record rests on has changed.
func (r *record) refuse() {
	r.err = ErrChanged
	close(r.finish)
}

// store has the time of the one that has waited longest: so nobody waits longer than the timeout, and nobody needs a clock.
func (r *recorder) store(group []*record, since Position) (saw sight, err error) {
	ctx, cancel := context.WithDeadline(context.Background(), group[0].until)
	defer cancel()
	rows, err := r.pool.Query(ctx, recordFetches, append(columnsOf(group), since.Xmax, since.Open, maxUnseen, latest(group), through(group))...)
	if err != nil {
		return sight{}, err
	}
	var text string
	err = readRows(rows, func(row scanner) error { return row.Scan(&text, &saw.changed, &saw.serving, &saw.unclear) })
	if err != nil {
		return sight{}, err
	}
	saw.at, err = seen(text)
	saw.asOf = saw.at.String()
	return saw, err
}

// columnsOf are the first 13 parameters of recordFetches.
func columnsOf(group []*record) []any {
	text := func(of func(*record) string) []string {
		values := make([]string, len(group))
		for i, item := range group {
			values[i] = of(item)
		}
		return values
	}
	times, versions, remembered := make([]int64, len(group)), make([]uint32, len(group)), make([]bool, len(group))
	for i, item := range group {
		times[i], versions[i], remembered[i] = item.At, item.Version, item.rests != nil
	}
	return []any{
		times,
		text(func(r *record) string { return r.DataPlaneID }), text(func(r *record) string { return r.CustomerID }),
		text(func(r *record) string { return r.ProjectID }), text(func(r *record) string { return r.UserID }),
		text(func(r *record) string { return r.TokenID }), text(func(r *record) string { return r.Provider }),
		text(func(r *record) string { return r.KeyID }), versions,
		text(func(r *record) string { return string(r.Decision) }), text(func(r *record) string { return r.Reason }),
		text(func(r *record) string { return r.RequestID }), remembered,
	}
}

// latest returns the time of the newest fetch, as of which credentials must be good.
func latest(group []*record) int64 {
	var at int64
	for _, item := range group {
		at = max(at, item.At)
	}
	return at
}

// through returns the data planes of those that rest on memory.
func through(group []*record) []string {
	ids := []string{}
	for _, item := range group {
		if item.rests != nil && !slices.Contains(ids, item.DataPlaneID) {
			ids = append(ids, item.DataPlaneID)
		}
	}
	return ids
}
