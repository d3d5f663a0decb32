package remote

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// keepPrimary is how long the id of the primary KEK is taken as known. One call tells it to everybody who compares
// envelopes with it for a second; and a second is how late a new primary KEK may show anyway, since that is how long
// secrets-svc may take to see a changed keyset file.
const keepPrimary = time.Second

// primary remembers which KEK is primary, or that this could not be found out. It serves who compares and who counts;
// what Seal and Rewrap do is decided in the service.
type primary struct {
	last  *atomic.Pointer[finding]
	asked chan struct{} // holds a token while somebody asks
}

// finding is what the service said, or that it did not.
type finding struct {
	kekID string
	err   error
	until time.Time
}

func newPrimary() primary {
	return primary{last: &atomic.Pointer[finding]{}, asked: make(chan struct{}, 1)}
}

// known returns the last finding, nil if it is too old.
func (p *primary) known() *finding {
	if found := p.last.Load(); found != nil && time.Now().Before(found.until) {
		return found
	}
	return nil
}

// saw notes the KEK of an envelope that was just sealed: if it is another one than before, the service is asked again.
func (p *primary) saw(kekID string) {
	if found := p.last.Load(); found != nil && found.kekID != kekID {
		p.last.CompareAndSwap(found, nil)
	}
}

// PrimaryKEK implements sealer.Sealer. It asks the service once a second at the most, and those who call meanwhile share
// the answer, an error too.
func (s *Sealer) PrimaryKEK(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("primary KEK: %w", err)
	}
	found := s.primary.known()
	if found == nil {
		var err error
		if found, err = s.askPrimary(ctx); err != nil {
			return "", fmt.Errorf("primary KEK: %w", err)
		}
	}
	return found.kekID, found.err
}

// askPrimary asks the service, unless another goroutine has just done so. Its error is ctx's.
func (s *Sealer) askPrimary(ctx context.Context) (*finding, error) {
	select {
	case s.primary.asked <- struct{}{}:
		defer func() { <-s.primary.asked }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if found := s.primary.known(); found != nil {
		return found, nil
	}
	keks, err := s.KEKs(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err() // which tells the others nothing
	}
	found := &finding{err: err, until: time.Now().Add(keepPrimary)}
	if err == nil {
		found.kekID = keks[0].ID
	}
	s.primary.last.Store(found)
	return found, nil
}
