package dataplane

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

const (
	ackEvery    = 5 * time.Second
	ackRetryMin = 50 * time.Millisecond
	ackRetryMax = time.Second
)

// acker acknowledges the positions of one stream: soon after a revocation, at a random moment of the time that the
// control plane allows, and every few seconds.
type acker struct {
	r       *Resolver
	session string // written before the first note
	within  atomic.Int64
	wake    chan struct{} // an urgent position was noted

	mu       sync.Mutex
	position string
}

func newAcker(r *Resolver) *acker { return &acker{r: r, wake: make(chan struct{}, 1)} }

// note takes a position that has been acted on.
func (a *acker) note(position string, urgent bool) {
	a.mu.Lock()
	a.position = position
	a.mu.Unlock()
	if urgent {
		select {
		case a.wake <- struct{}{}:
		default: // it will send the newest position anyway
		}
	}
}

func (a *acker) noted() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.position
}

// run sends until ctx ends. It ends the stream when the control plane no longer knows it.
func (a *acker) run(ctx context.Context, end context.CancelCauseFunc) {
	timer := time.NewTimer(ackEvery)
	defer timer.Stop()
	soon := false // the timer is set to an urgent receipt
	retry := ackRetryMin
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
			if !soon {
				soon = true
				timer.Reset(spread(time.Duration(a.within.Load())))
			}
			continue
		case <-timer.C:
		}
		position := a.noted()
		if position == "" {
			timer.Reset(ackEvery)
			continue
		}
		switch a.send(ctx, position) {
		case http.StatusNoContent:
			soon, retry = false, ackRetryMin
			timer.Reset(ackEvery)
		case http.StatusNotFound:
			end(errSession)
			return
		default:
			soon = true
			timer.Reset(retry)
			retry = min(2*retry, ackRetryMax)
		}
	}
}

// send posts a position and returns the status; 0 if there was no answer.
func (a *acker) send(ctx context.Context, position string) int {
	ctx, cancel := context.WithTimeout(ctx, a.r.cfg.FetchTimeout)
	defer cancel()
	status, _, err := a.r.post(ctx, func(ctx context.Context) (*http.Response, error) {
		return a.r.client.Acknowledge(ctx, gen.AcknowledgeRequest{SessionID: a.session, Position: position})
	})
	if err != nil {
		return 0
	}
	return status
}

// spread returns a random moment of the second half of a time. In the first half the control plane has others to tell.
func spread(within time.Duration) time.Duration {
	if within <= 1 {
		return 0
	}
	return within/2 + rand.N(within/2) //nolint:gosec // spreads load, guards nothing
}
