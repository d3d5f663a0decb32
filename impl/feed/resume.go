package feed

import (
	"context"
	"errors"

	"github.com/agentrouter/aikeys/models"
)

// catchUp returns the frames of what the data plane has missed: nothing for one that begins now.
func (f *Feed) catchUp(ctx context.Context, s *Stream, sub Subscription, start models.Position) ([]byte, error) {
	if sub.Resume == nil {
		return nil, nil
	}
	changes, now, err := f.missed(ctx, *sub.Resume)
	if err != nil {
		return nil, err
	}
	if sub.Previous != "" {
		if err := f.inherit(ctx, s, sub, start, changes); err != nil {
			return nil, err
		}
	}
	if now.Xmax < sub.Resume.Xmax || len(changes) > maxBacklog { // of another state of the database, or too much
		return resetFrame(), nil
	}
	var frames []byte
	for _, c := range changes {
		if s.dataPlane.Serves(c.CustomerID) {
			frames = append(frames, changeFrame(c)...)
		}
	}
	return frames, nil
}

func (f *Feed) missed(ctx context.Context, since models.Position) ([]models.Change, models.Position, error) {
	select {
	case f.resumes <- struct{}{}:
		defer func() { <-f.resumes }()
	case <-ctx.Done():
		return nil, models.Position{}, ctx.Err()
	}
	return f.store.Changes(ctx, since, maxBacklog+1)
}

// inherit has the receipts of revocations that a data plane is about to hear of wait for it, where nobody else may: the stream
// that it carries on is another replica's, which may be dead, and goes off the books.
func (f *Feed) inherit(ctx context.Context, s *Stream, sub Subscription, start models.Position, missed []models.Change) error {
	owed := f.owed(s, sub, start, missed)
	if len(owed) == 0 {
		return nil
	}
	err := f.store.ForwardAcknowledgement(ctx, sub.Previous, sub.DataPlane.ID, *sub.Resume)
	if errors.Is(err, models.ErrNotFound) {
		return nil // its lease has run out, or a later stream waits in its place
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	for _, t := range owed {
		f.await(s, t)
	}
	f.mu.Unlock()
	return f.flush(ctx)
}

// owed returns the tallies of what the data plane is about to hear of, and may still use.
func (f *Feed) owed(s *Stream, sub Subscription, start models.Position, missed []models.Change) []*tally {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, old := range []*Stream{f.streams[sub.Previous], f.departed[sub.Previous]} {
		if old != nil && old.dataPlane.ID == s.dataPlane.ID {
			return nil // its own are taken over
		}
	}
	for _, c := range missed { // from before this replica began to read, too
		if c.Type == models.EventKeyRevoked && start.Holds(c.Tx) && f.tallies[c.KeyID] == nil {
			f.open(c, f.since)
		}
	}
	var owed []*tally
	for _, t := range f.tallies {
		if start.Holds(t.tx) && !sub.Resume.Holds(t.tx) && s.dataPlane.Serves(t.customerID) &&
			f.clock()-t.seenAt < f.lease+s.maxStale {
			owed = append(owed, t)
		}
	}
	return owed
}
