// Package feed tells data planes what changes, and keeps the receipts of revocations. Each replica of the service reads the
// changes from the database, which is the truth, and writes them to the streams of the data planes that are connected to it;
// no replica depends on another. What proves that a revocation is complete:
//
//   - A heartbeat carries the time, on this replica's monotonic clock, at which the read began whose changes have all been
//     written before it. It extends the lease to that time plus the lease's length, whenever it arrives.
//   - So a lease that runs on after a revocation's commit belongs to a data plane that has been told of it, or ends with the
//     lease's length. With the longest grace that any data plane has declared, that is the bound of every receipt, and it
//     depends on no clock but this process's own, nor on any other replica.
//   - Acknowledgements only make a receipt complete sooner.
//
// It may import gen/dataplane and models.
package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/models"
)

const (
	defaultLease = time.Second
	// heartbeatsPerLease leaves room for one that is late: it comes while more than half of the lease is left.
	heartbeatsPerLease = 2.5
	// readPause is the least time between two reads, so that many commits share one.
	readPause = 2 * time.Millisecond
	// maxBatch bounds the changes of one read; more make every stream begin anew.
	maxBatch = 5_000
)

// Config is what a Feed needs. Store is required.
type Config struct {
	Store *models.Store
	// Lease is how long a heartbeat lets a data plane use its cache. Zero is 1 s.
	Lease time.Duration
	// Log may be nil for none.
	Log *slog.Logger
	// Metrics may be nil for none.
	Metrics prometheus.Registerer
}

// Feed is one replica's. Run must run for it to do anything.
type Feed struct {
	store   *models.Store
	lease   time.Duration
	log     *slog.Logger
	metrics *metrics
	ids     models.IDs
	replica string
	started time.Time

	// Constants but in tests; see house.go.
	house, beatGrace, ackSilence time.Duration

	wake    chan struct{}
	resumes chan struct{} // a place for each stream that reads what it missed
	// complete says that a receipt may have become so.
	complete chan struct{}
	saving   sync.Mutex // held while receipts are stored: an older count must not come last
	beating  sync.Mutex // held while this replica says that it lives
	// beatAt is when this replica last told the others that it lives, on its clock.
	beatAt atomic.Int64

	mu       sync.Mutex
	position models.Position
	ready    bool          // whether there is a position
	stopped  bool          // whether Run has ended
	since    time.Duration // by when everything was committed that the position held when it was taken over unread
	readAt   time.Duration // when the read that led to position began
	told     time.Duration // readAt of the last heartbeat
	turn     chan struct{} // closed, and made anew, when there may be news for who awaits a receipt
	streams  map[string]*Stream
	departed map[string]*Stream // those whose leases may run on
	tallies  map[string]*tally  // of all revocations since, by key
	unsaved  map[string]*tally  // of those, what is to be stored
}

// New returns a Feed.
func New(cfg Config) (*Feed, error) {
	f := &Feed{
		store: cfg.Store, lease: cfg.Lease, log: cfg.Log, started: time.Now(),
		house: houseInterval, beatGrace: beatGrace, ackSilence: ackSilence,
		wake: make(chan struct{}, 1), resumes: make(chan struct{}, maxResumes), complete: make(chan struct{}, 1), turn: make(chan struct{}),
		streams: map[string]*Stream{}, departed: map[string]*Stream{}, tallies: map[string]*tally{}, unsaved: map[string]*tally{},
	}
	f.beatAt.Store(math.MinInt64 / 2) // never
	f.wakeUp()                        // to read at once
	f.replica = f.ids.Next("", f.started)
	if f.lease == 0 {
		f.lease = defaultLease
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	var err error
	f.metrics, err = newMetrics(f, cfg.Metrics)
	return f, err
}

// clock is the time on this replica's clock, which nothing steps.
func (f *Feed) clock() time.Duration { return time.Since(f.started) }

// Run follows the database until ctx ends; then it ends all streams. It does without a database for as long as that takes to
// come: no heartbeats go out meanwhile.
func (f *Feed) Run(ctx context.Context) error {
	defer f.stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.store.Watch(ctx, f.wakeUp) })
	group.Go(func() error { return f.follow(ctx) })
	group.Go(func() error { return f.saveReceipts(ctx) })
	group.Go(func() error { return f.keepHouse(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("feed: %w", err)
	}
	return nil
}

func (f *Feed) wakeUp() {
	select {
	case f.wake <- struct{}{}:
	default: // it is due already
	}
}

// follow reads what changed whenever that may be something, and often enough for the leases.
func (f *Feed) follow(ctx context.Context) error {
	interval := time.Duration(float64(f.lease) / heartbeatsPerLease)
	heartbeat := time.NewTicker(interval)
	defer heartbeat.Stop()
	failing, due := false, true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-heartbeat.C:
			due = true
		}
		told, err := f.read(ctx, due)
		if due = due && err != nil; told {
			heartbeat.Reset(interval) // changes bring one, and those who are told of them need not be told twice
		}
		if ctx.Err() != nil {
			return nil
		}
		if (err != nil) != failing {
			failing = err != nil
			f.tell(ctx, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(readPause):
		}
	}
}

// tell logs when the database is lost and found.
func (f *Feed) tell(ctx context.Context, err error) {
	if err == nil {
		f.log.InfoContext(ctx, "changes are read again; data planes get their leases")
		return
	}
	f.log.WarnContext(ctx, "changes can't be read; data planes get no leases until they can", slog.String("error", err.Error()))
}

// read reads once, and tells the streams: of the time as well if that is due, and returns whether it has. The time is taken
// before: what is committed later is not promised.
func (f *Feed) read(ctx context.Context, due bool) (told bool, err error) {
	f.mu.Lock()
	since, ready := f.position, f.ready
	f.mu.Unlock()
	began := f.clock()
	if !ready {
		now, err := f.store.Position(ctx)
		if err == nil {
			f.begin(now, began)
		}
		return false, err
	}
	changes, now, err := f.store.Changes(ctx, since, maxBatch)
	if err != nil {
		return false, err
	}
	// More than can be told, or a database that was restored from a backup: nobody knows what has changed.
	switch {
	case now.Xmax < since.Xmax:
		f.log.WarnContext(ctx, "the database has gone back to an earlier state; data planes begin anew")
		f.expel(now, began)
		return false, nil
	case len(changes) == maxBatch:
		f.log.WarnContext(ctx, "too much has changed to tell; data planes begin anew")
		f.restart(now, began)
		return false, nil
	}
	told = f.publish(changes, now, began, due)
	return told, f.takeForwarded(ctx)
}
