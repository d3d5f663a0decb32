package models

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/agentrouter/aikeys/internal/batch"
)

// recordFetches stores a group of records in one commit, which does not wait for the disk: a crash of the database server
// can lose records of fetches, and nothing else.
const recordFetches = `WITH quick AS (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO fetches (` + fetchColumns + `) SELECT ` + fetchColumns + ` FROM quick,
unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::integer[],
  $10::text[], $11::text[], $12::text[]) AS r (` + fetchColumns + `)`

// maxRecords bounds how many records one commit carries.
const maxRecords = 256

// newRecorder returns the worker that writes fetch records. If the server refuses a group, for example because one text has
// a zero byte, each record is tried alone.
func newRecorder(pool *pgxpool.Pool, timeout time.Duration) *batch.Worker[FetchRecord] {
	return batch.New(maxRecords, func(group iter.Seq[FetchRecord]) error {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		_, err := pool.Exec(ctx, recordFetches, columnsOf(slices.Collect(group))...)
		return err
	}, isRefused)
}

// columnsOf returns the parameters of recordFetches, an array for each column.
func columnsOf(group []FetchRecord) []any {
	text := func(of func(FetchRecord) string) []string {
		values := make([]string, len(group))
		for i, r := range group {
			values[i] = of(r)
		}
		return values
	}
	times, versions := make([]int64, len(group)), make([]uint32, len(group))
	for i, r := range group {
		times[i], versions[i] = r.At, r.Version
	}
	return []any{
		times,
		text(func(r FetchRecord) string { return r.DataPlaneID }), text(func(r FetchRecord) string { return r.CustomerID }),
		text(func(r FetchRecord) string { return r.ProjectID }), text(func(r FetchRecord) string { return r.UserID }),
		text(func(r FetchRecord) string { return r.TokenID }), text(func(r FetchRecord) string { return r.Provider }),
		text(func(r FetchRecord) string { return r.KeyID }), versions,
		text(func(r FetchRecord) string { return string(r.Decision) }), text(func(r FetchRecord) string { return r.Reason }),
		text(func(r FetchRecord) string { return r.RequestID }),
	}
}
