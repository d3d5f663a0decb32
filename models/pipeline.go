package models

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// maxPipeline bounds how many look-ups share a round trip, and so how long the first of them waits.
const maxPipeline = 32

// pipeline sends single-row look-ups to Postgres. Those that wait while a round trip is under way share the next: most of
// a look-up's cost is in system calls and wake-ups on both sides, which a group pays once. A look-up that comes alone
// leaves at once. They share a round trip and nothing else: each is a statement of its own that can only read.
type pipeline struct {
	pool    *pgxpool.Pool
	timeout time.Duration
	queue   chan *lookUp
	stop    chan struct{}
	workers sync.WaitGroup
}

type lookUp struct {
	sql    string
	args   []any
	scan   func(scanner) error
	err    error
	finish chan struct{}
}

// newPipeline returns a pipeline that holds at most a quarter of the pool's connections, two at the least: should all of
// them wait for a lock, the rest is left to others.
func newPipeline(pool *pgxpool.Pool, timeout time.Duration) *pipeline {
	p := &pipeline{pool: pool, timeout: timeout, queue: make(chan *lookUp, maxPipeline), stop: make(chan struct{})}
	for range max(2, min(runtime.GOMAXPROCS(0), int(pool.Config().MaxConns/4))) {
		p.workers.Go(p.run)
	}
	return p
}

// do runs one statement and hands its row to scan.
func (p *pipeline) do(ctx context.Context, sql string, args []any, scan func(scanner) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	item := &lookUp{sql: sql, args: args, scan: scan, finish: make(chan struct{})}
	select {
	case p.queue <- item:
	case <-p.stop:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-item.finish:
		return item.err
	case <-p.stop:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pipeline) close() {
	close(p.stop)
	p.workers.Wait()
}

func (p *pipeline) run() {
	for {
		select {
		case <-p.stop:
			return
		case first := <-p.queue:
			p.send(gather(p.queue, first, maxPipeline))
		}
	}
}

// send runs a group. Its context is its own: one caller who leaves must not take the others' answers along.
func (p *pipeline) send(group []*lookUp) {
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	defer cancel()
	batch := &pgx.Batch{}
	for _, item := range group {
		batch.Queue(item.sql, item.args...)
	}
	results := p.pool.SendBatch(ctx, batch)
	for _, item := range group {
		item.err = readRow(results, item.scan)
	}
	_ = results.Close() // whoever has read their row has their answer; the others have their error
	for _, item := range group {
		if len(group) > 1 && isRefused(item.err) {
			item.err = p.sendAlone(ctx, item)
		}
		close(item.finish)
	}
}

// isRefused tells whether the server refused a statement. It then skips the rest of the group, and the error that the rest
// gets is one caller's only: a zero byte in an id, say.
func isRefused(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused)
}

func (p *pipeline) sendAlone(ctx context.Context, item *lookUp) error {
	rows, err := p.pool.Query(ctx, item.sql, item.args...)
	if err != nil {
		return err
	}
	return readRows(rows, item.scan)
}

func readRow(results pgx.BatchResults, scan func(scanner) error) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	return readRows(rows, scan)
}

func readRows(rows pgx.Rows, scan func(scanner) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// gather takes what waits in queue behind first, up to limit in all. Those who are about to join the queue come first:
// answers arrive in groups, and so does what follows on them.
func gather[T any](queue <-chan T, first T, limit int) []T {
	runtime.Gosched()
	group := []T{first}
	for len(group) < limit {
		select {
		case next := <-queue:
			group = append(group, next)
		default:
			return group
		}
	}
	return group
}

var errClosed = fmt.Errorf("%w: store is closed", ErrUnavailable)
