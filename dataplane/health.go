package dataplane

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// downFor is how long a control plane that could not be reached is left alone, and how long one that has answered
// nothing is waited for before it is taken to hang.
const downFor = 250 * time.Millisecond

// refusedFor is how long a control plane is left alone that refuses the data plane's credential: it counts such requests, and
// in the end takes none from this address.
const refusedFor = 3 * time.Second

// health knows whether the control plane answers, from the requests that were made for other reasons.
type health struct {
	mu       sync.Mutex
	asking   int           // how many requests are on their way
	silent   time.Duration // since when none of them was answered
	answered time.Duration // when one was answered last
	failure  error         // the outcome of the last one that ended; nil if it was answered
	failedAt time.Duration
}

// begin notes that a request is sent.
func (h *health) begin(now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asking == 0 {
		h.silent = now
	}
	h.asking++
}

// end notes how a request ended that was sent at a time; failure is nil if there was an answer. A failure says nothing
// of the control plane if others were answered since the request was sent.
func (h *health) end(sent, now time.Duration, failure error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asking--
	switch {
	case failure == nil:
		h.silent, h.answered, h.failure = now, now, nil
	case h.answered <= sent:
		h.failedAt, h.failure = now, failure
	}
}

// heard notes that the control plane has answered otherwise: requests are worth a try again.
func (h *health) heard(now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent, h.answered, h.failure = now, now, nil
}

// down returns why there is no use in asking now; nil if there is. That requests hang counts only if there is no lease
// either: while heartbeats come, they are merely slow.
func (h *health) down(now time.Duration, leased bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	pause := downFor
	if errors.Is(h.failure, ErrDataPlaneUnauthenticated) {
		pause = refusedFor
	}
	if h.failure != nil && now-h.failedAt < pause {
		return h.failure
	}
	if !leased && h.asking > 0 && now-h.silent >= downFor {
		return errSilent
	}
	return nil
}

// standing is whether the control plane accepts this data plane. Once it has refused the credential, it must accept it again
// before what is cached may outlast the lease. That it answers nothing afterwards, or turns everybody at this address away,
// undoes no refusal.
type standing struct {
	refusedAt atomic.Int64 // as a duration; never is noLease
}

func (s *standing) refuse(now time.Duration) { s.refusedAt.Store(int64(now)) }

// accept notes that a request was taken that was sent at a time. One that was sent before the refusal says nothing.
func (s *standing) accept(sent time.Duration) {
	if at := s.refusedAt.Load(); int64(sent) >= at {
		s.refusedAt.CompareAndSwap(at, int64(noLease))
	}
}

func (s *standing) refused() bool { return s.refusedAt.Load() != int64(noLease) }
