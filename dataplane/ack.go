package dataplane

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

const (
	ackInterval = 5 * time.Second
	ackRetryMin = 50 * time.Millisecond
	ackRetryMax = time.Second
)

// acker acknowledges the positions of one stream: soon after a revocation, at a random time within the limit that the
// control plane sets, and otherwise every few seconds.
type acker struct {
	r       *Resolver
	session string        // set before the first position
	within  atomic.Int64  // the control plane's limit, a time.Duration
	urgent  chan struct{} // signals a position whose receipt may be awaited

	mu       sync.Mutex
	position string // the last position acted on; guarded by mu
}

func newAcker(r *Resolver) *acker { return &acker{r: r, urgent: make(chan struct{}, 1)} }

func (a *acker) setLimit(ms int) {
	a.within.Store(int64(milliseconds(int64(ms), time.Minute)))
}

// setPosition records a position that has been acted on.
func (a *acker) setPosition(position string, urgent bool) {
	a.mu.Lock()
	a.position = position
	a.mu.Unlock()
	if urgent {
		select {
		case a.urgent <- struct{}{}:
		default: // a signal is pending, and the newest position will be sent
		}
	}
}

func (a *acker) lastPosition() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.position
}

// run sends acknowledgements until ctx ends. It ends the stream if the control plane no longer knows its session.
func (a *acker) run(ctx context.Context, endStream context.CancelCauseFunc) {
	interval := a.r.cfg.intervals.ack
	retry := &backoff.ExponentialBackOff{InitialInterval: ackRetryMin, Multiplier: 2, MaxInterval: ackRetryMax}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	soon := false // whether the timer is set to an urgent acknowledgement or a retry
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.urgent:
			if !soon {
				soon = true
				timer.Reset(randomInSecondHalf(time.Duration(a.within.Load())))
			}
			continue
		case <-timer.C:
		}
		position := a.lastPosition()
		if position == "" {
			timer.Reset(interval)
			continue
		}
		switch a.sendAck(ctx, position) {
		case http.StatusNoContent:
			soon = false
			retry.Reset()
			timer.Reset(interval)
		case http.StatusNotFound:
			endStream(errSessionUnknown)
			return
		default:
			soon = true
			timer.Reset(retry.NextBackOff())
		}
	}
}

// sendAck acknowledges a position and returns the status of the answer, or 0 if there was none.
func (a *acker) sendAck(ctx context.Context, position string) int {
	ctx, cancel := context.WithTimeout(ctx, a.r.cfg.FetchTimeout)
	defer cancel()
	status, _, err := a.r.send(ctx, func(ctx context.Context) (*http.Response, error) {
		return a.r.client.Acknowledge(ctx, gen.AcknowledgeRequest{SessionID: a.session, Position: position})
	})
	if err != nil {
		return 0
	}
	return status
}

// randomInSecondHalf returns a random time in the second half of a limit. In the first half the control plane is still
// sending the event to other data planes.
func randomInSecondHalf(limit time.Duration) time.Duration {
	if limit <= 1 {
		return 0
	}
	return limit/2 + rand.N(limit/2) //nolint:gosec // spreads load, guards nothing
}
