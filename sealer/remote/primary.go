package remote

import (
	"context"
	"sync/atomic"
	"time"
)

// primaryTTL is how long the id of the primary KEK is cached. secrets-svc itself may take that long to notice a changed
// keyset file.
const primaryTTL = time.Second

// primary caches the id of the primary KEK, or the error of the last request for it. Only PrimaryKEK returns the cached
// id, because the service itself decides under which KEK it seals and re-wraps.
type primary struct {
	last  atomic.Pointer[primaryAnswer]
	asked chan struct{} // holds a token while a goroutine reads last and, if the answer is too old, asks the service
}

// primaryAnswer is the service's last answer, or the error of asking.
type primaryAnswer struct {
	kekID string
	err   error
	until time.Time
}

// noteSealedWith drops the cached answer if an envelope was just sealed under another KEK.
func (p *primary) noteSealedWith(kekID string) {
	if found := p.last.Load(); found != nil && found.kekID != kekID {
		p.last.CompareAndSwap(found, nil)
	}
}

// PrimaryKEK implements sealer.Sealer. It asks the service at most once a second; callers share the answer or the error.
func (s *Sealer) PrimaryKEK(ctx context.Context) (kekID string, err error) {
	defer wrap(&err, "primary KEK")
	select {
	case s.primary.asked <- struct{}{}:
		defer func() { <-s.primary.asked }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if found := s.primary.last.Load(); found != nil && time.Now().Before(found.until) {
		return found.kekID, found.err
	}
	keks, err := s.KEKs(ctx)
	if ctx.Err() != nil {
		return "", ctx.Err() // not cached: it concerns this caller only
	}
	found := &primaryAnswer{err: err, until: time.Now().Add(primaryTTL)}
	if err == nil {
		found.kekID = keks[0].ID
	}
	s.primary.last.Store(found)
	return found.kekID, found.err
}
