package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// noLease is the end of a lease that never was, with room for what is added to it.
const noLease = time.Duration(math.MinInt64 / 2)

// firstTerm is how long a lease is taken to last before the control plane has said so.
const firstTerm = time.Second

// Resolver finds the keys that serve requests. It is safe for concurrent use. Run must be called for it to answer from
// its cache; without it, each call of Resolve asks the control plane.
type Resolver struct {
	cfg     Config
	clock   Clock
	log     *slog.Logger
	metrics *metrics
	client  *gen.Client // for single requests
	stream  *gen.Client // for the stream
	idle    func()      // closes the idle connections of client

	store    *store
	health   health
	standing standing
	reports  *reports
	// leaseEnd is the time at which the lease ends, and term for how long a heartbeat extends it, as durations.
	leaseEnd atomic.Int64
	term     atomic.Int64
	running  atomic.Bool

	channelMu sync.Mutex
	channel   channel
}

// New returns a Resolver. It connects to nothing; Run does.
func New(cfg Config) (*Resolver, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Resolver{cfg: cfg, clock: cfg.Clock, log: cfg.Log, reports: newReports(cfg.Clock)}
	r.leaseEnd.Store(int64(noLease))
	r.standing.refusedAt.Store(int64(noLease))
	r.term.Store(int64(firstTerm))
	if r.store, err = newStore(cfg.CacheSize); err != nil {
		return nil, fmt.Errorf("data plane: %w", err)
	}
	if r.client, r.stream, r.idle, err = newClients(&r.cfg); err != nil {
		return nil, fmt.Errorf("data plane: %w", err)
	}
	if r.metrics, err = newMetrics(cfg.Metrics, r); err != nil {
		return nil, fmt.Errorf("data plane: %w", err)
	}
	return r, nil
}

// Run follows the stream of changes, acknowledges them and sends reports, until ctx ends; then it returns nil. It owns
// every goroutine but those of fetches, which end by FetchTimeout.
func (r *Resolver) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer r.running.Store(false)
	var reporting sync.WaitGroup
	reporting.Go(func() { r.sendReports(ctx) })
	r.follow(ctx)
	reporting.Wait()
	r.idle()
	return nil
}

// Resolve returns the key that serves a request. Errors wrap the package's sentinels, or are ctx's.
func (r *Resolver) Resolve(ctx context.Context, req Request) (*Key, error) {
	id := req.digest()
	// The lease is looked at first: an entry that is still there afterwards was not dropped by an event up to then.
	now := r.clock.Now()
	if r.leased(now) {
		if e, ok := r.store.cache.GetIfPresent(id); ok && now < e.fresh {
			return r.hit(e)
		}
	}
	return r.miss(ctx, id, req)
}

// leased tells whether the cache may be used without asking.
func (r *Resolver) leased(now time.Duration) bool { return int64(now) < r.leaseEnd.Load() }

func (r *Resolver) hit(e *entry) (*Key, error) {
	if e.err != nil {
		r.metrics.negative.Inc()
		return nil, e.err
	}
	r.metrics.hit.Inc()
	return e.key, nil
}

// miss asks the control plane, together with all who want the same. While that takes long or fails, what is cached may
// have to do.
func (r *Resolver) miss(ctx context.Context, id digest, req Request) (*Key, error) {
	if err := req.check(); err != nil {
		r.metrics.refused.Inc()
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := r.clock.Now()
	if failure := r.health.down(now, r.leased(now)); failure != nil {
		return r.withoutAnswer(id, failure)
	}
	f, isNew, e := r.store.join(id, func(e *entry) bool {
		now := r.clock.Now()
		return r.leased(now) && now < e.fresh
	})
	if e != nil {
		return r.hit(e)
	}
	if isNew {
		go r.fly(context.WithoutCancel(ctx), f, req)
	}
	return r.wait(ctx, f)
}

// wait waits for a fetch, but not for long if what is cached may be used instead.
func (r *Resolver) wait(ctx context.Context, f *flight) (*Key, error) {
	var patience <-chan time.Time
	if r.stale(f.id) != nil {
		timer := time.NewTimer(downFor)
		defer timer.Stop()
		patience = timer.C
	}
	for {
		select {
		case <-f.done:
			return r.landed(f)
		case <-patience:
			if key := r.stale(f.id); key != nil {
				r.metrics.stale.Inc()
				return key, nil
			}
			patience = nil // an event has dropped it meanwhile
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// landed returns what a fetch brought.
func (r *Resolver) landed(f *flight) (*Key, error) {
	switch {
	case f.err == nil:
		r.metrics.fetched.Inc()
		return f.key, nil
	case errors.Is(f.err, ErrUnavailable):
		return r.withoutAnswer(f.id, f.err)
	default:
		r.metrics.refused.Inc()
		return nil, f.err
	}
}

// withoutAnswer is what Resolve returns when the control plane gives no answer.
func (r *Resolver) withoutAnswer(id digest, failure error) (*Key, error) {
	if r.standing.refused() || errors.Is(failure, ErrDataPlaneUnauthenticated) {
		r.metrics.refused.Inc()
		return nil, ErrDataPlaneUnauthenticated
	}
	if key := r.stale(id); key != nil {
		r.metrics.stale.Inc()
		return key, nil
	}
	r.metrics.unavailable.Inc()
	return nil, failure
}

// stale returns the key that may serve though nobody answers; nil if none may. Nothing prolongs a caller's credential, and
// there is no grace for a data plane whose own has been refused.
func (r *Resolver) stale(id digest) *Key {
	if r.cfg.MaxStale == 0 || r.standing.refused() {
		return nil
	}
	now := r.clock.Now()
	until := time.Duration(r.leaseEnd.Load()) + r.cfg.MaxStale
	e, ok := r.store.cache.GetIfPresent(id)
	if !ok || e.err != nil || now >= until || now >= e.aged+r.cfg.MaxStale || now >= e.valid {
		return nil
	}
	return e.key
}
