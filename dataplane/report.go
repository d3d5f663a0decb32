package dataplane

import (
	"context"
	"net/http"
	"sync"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

const (
	reportEvery = 5 * time.Second
	// failureDelay is how long a refused key waits for others, before it is reported.
	failureDelay = 100 * time.Millisecond
	// lastReport bounds the report on the way out.
	lastReport = time.Second
	maxBatch   = 500
	// maxReports is how many keys wait at the most; of others nothing is reported.
	maxReports = 10_000
	maxAgo     = 24 * time.Hour
)

// fate is what became of a key since it was reported last. Times are the Clock's; an absent one is noLease.
type fate struct {
	used, failed time.Duration
	status       int
}

// reports collects what became of keys until it is sent.
type reports struct {
	clock Clock
	wake  chan struct{} // a key was refused

	mu    sync.Mutex
	fates map[string]fate
}

func newReports(clock Clock) *reports {
	return &reports{clock: clock, wake: make(chan struct{}, 1), fates: map[string]fate{}}
}

// Report takes down what a provider answered to a key: 401 and 403 mean that it refused the key, others up to 4xx that
// it took it. Reports are sent in batches by Run. It never blocks.
func (r *Resolver) Report(key *Key, status int) {
	if key == nil || key.ID == "" || status < 100 || status >= 500 {
		return
	}
	news := fate{used: r.clock.Now(), failed: noLease}
	refused := status == http.StatusUnauthorized || status == http.StatusForbidden
	if refused {
		news = fate{used: noLease, failed: news.used, status: status}
	}
	r.reports.add(key.ID, news)
	if refused {
		select {
		case r.reports.wake <- struct{}{}:
		default:
		}
	}
}

// add merges news of a key into what is known; the later of each counts.
func (p *reports) add(keyID string, news fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	have, ok := p.fates[keyID]
	if !ok {
		if len(p.fates) >= maxReports {
			return
		}
		p.fates[keyID] = news
		return
	}
	have.used = max(have.used, news.used)
	if news.failed > have.failed {
		have.failed, have.status = news.failed, news.status
	}
	p.fates[keyID] = have
}

// take returns a batch, and takes it out.
func (p *reports) take() map[string]fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	batch := make(map[string]fate, min(len(p.fates), maxBatch))
	for keyID, f := range p.fates {
		if len(batch) == maxBatch {
			break
		}
		batch[keyID] = f
		delete(p.fates, keyID)
	}
	return batch
}

// sendReports sends what there is every few seconds, refusals at once, and the rest when ctx ends.
func (r *Resolver) sendReports(ctx context.Context) {
	timer := time.NewTimer(reportEvery)
	defer timer.Stop()
	hurried := false
	for {
		select {
		case <-ctx.Done():
			r.flushLast(ctx)
			return
		case <-r.reports.wake:
			if !hurried {
				hurried = true
				timer.Reset(failureDelay)
			}
			continue
		case <-timer.C:
		}
		r.flush(ctx)
		hurried = false
		timer.Reset(reportEvery)
	}
}

// flushLast sends what there is when ctx has ended, if it can be done quickly.
func (r *Resolver) flushLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastReport)
	defer cancel()
	r.flush(ctx)
}

// flush sends everything, batch by batch, and puts back what the control plane could not take now.
func (r *Resolver) flush(ctx context.Context) {
	for {
		batch := r.reports.take()
		if len(batch) == 0 {
			return
		}
		if status := r.sendBatch(ctx, batch); status == 0 || status >= 500 || status == http.StatusTooManyRequests {
			for keyID, f := range batch {
				r.reports.add(keyID, f)
			}
			return
		}
	}
}

// sendBatch posts a batch and returns the status; 0 if there was no answer.
func (r *Resolver) sendBatch(ctx context.Context, batch map[string]fate) int {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.FetchTimeout)
	defer cancel()
	now := r.clock.Now()
	body := gen.ReportRequest{Keys: make([]gen.KeyReport, 0, len(batch))}
	for keyID, f := range batch {
		report := gen.KeyReport{KeyID: keyID, UsedMsAgo: ago(now, f.used), FailedMsAgo: ago(now, f.failed)}
		if report.FailedMsAgo != nil {
			report.FailureStatus = &f.status
		}
		body.Keys = append(body.Keys, report)
	}
	status, _, err := r.post(ctx, func(ctx context.Context) (*http.Response, error) {
		return r.client.ReportKeys(ctx, body)
	})
	if err != nil {
		return 0
	}
	return status
}

// ago returns the milliseconds since a time; nil if it is absent or too long ago to matter.
func ago(now, then time.Duration) *int {
	if then == noLease || now-then > maxAgo {
		return nil
	}
	ms := int(max(now-then, 0).Milliseconds())
	return &ms
}
