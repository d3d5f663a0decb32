package dataplane

import (
	"sync"
	"time"
)

// downFor is how long a control plane that could not be reached is left alone, and how long one that has answered
// nothing is waited for before it is taken to hang.
const downFor = 250 * time.Millisecond

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
	if h.failure != nil && now-h.failedAt < downFor {
		return h.failure
	}
	if !leased && h.asking > 0 && now-h.silent >= downFor {
		return errSilent
	}
	return nil
}
