package dataplane

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// downFor is how long no request is sent after the control plane could not be reached, and how long requests may all
	// go unanswered before it counts as hanging.
	downFor = 250 * time.Millisecond
	// refusedFor is how long no request is sent after the control plane refused the data plane's credential. It counts
	// refused requests, and finally accepts none from their address.
	refusedFor = 3 * time.Second
)

// health records whether the control plane answers, as seen by ordinary requests; it sends none of its own. All times
// are the Clock's.
type health struct {
	mu          sync.Mutex    // guards every field
	inFlight    int           // requests sent and not yet answered
	silentSince time.Duration // since when no request in flight was answered
	answeredAt  time.Duration // when a request was last answered
	failure     error         // the outcome of the last request that ended; nil if it was answered
	failedAt    time.Duration
}

// requestSent records that a request is sent.
func (h *health) requestSent(now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inFlight == 0 {
		h.silentSince = now
	}
	h.inFlight++
}

// requestDone records the outcome of a request; failure is nil if it was answered. A failure is ignored if another
// request was answered since this one was sent.
func (h *health) requestDone(sent, now time.Duration, failure error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inFlight--
	switch {
	case failure == nil:
		h.silentSince, h.answeredAt, h.failure = now, now, nil
	case h.answeredAt <= sent:
		h.failedAt, h.failure = now, failure
	}
}

// streamOpened records that the control plane has answered on the stream: requests are worth sending again.
func (h *health) streamOpened(now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silentSince, h.answeredAt, h.failure = now, now, nil
}

// downReason returns why a request would be useless now, or nil. Requests that hang count only without a lease: while
// heartbeats arrive, the control plane is merely slow.
func (h *health) downReason(now time.Duration, leased bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	pause := downFor
	if errors.Is(h.failure, ErrDataPlaneUnauthenticated) {
		pause = refusedFor
	}
	if h.failure != nil && now-h.failedAt < pause {
		return h.failure
	}
	if !leased && h.inFlight > 0 && now-h.silentSince >= downFor {
		return errSilent
	}
	return nil
}

// credentialStatus records whether the control plane refuses the data plane's credential. After a refusal it must accept
// the credential again before cached keys may outlive the lease. Silence afterwards, or a limit on this address, does not
// undo a refusal.
type credentialStatus struct {
	refusedAt atomic.Int64 // a time.Duration; never if the credential is not refused
}

func (s *credentialStatus) setRefused(now time.Duration) { s.refusedAt.Store(int64(now)) }

// setAccepted records that a request was accepted. One that was sent before the refusal proves nothing.
func (s *credentialStatus) setAccepted(sent time.Duration) {
	if at := s.refusedAt.Load(); int64(sent) >= at {
		s.refusedAt.CompareAndSwap(at, int64(never))
	}
}

func (s *credentialStatus) isRefused() bool { return s.refusedAt.Load() != int64(never) }
