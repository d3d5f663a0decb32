package feed

import (
	"context"
	"time"

	"github.com/agentrouter/aikeys/models"
)

// Acknowledge takes down that a data plane has acted on everything up to a position. A stream that another replica has is
// told there. It is models.ErrNotFound when the stream has ended, and its lease with it.
func (f *Feed) Acknowledge(ctx context.Context, dataPlaneID, streamID string, at models.Position) error {
	if f.acknowledge(dataPlaneID, streamID, at) {
		return nil
	}
	return f.store.ForwardAcknowledgement(ctx, streamID, dataPlaneID, at)
}

// acknowledge tells whether the stream is one of this replica's.
func (f *Feed) acknowledge(dataPlaneID, streamID string, at models.Position) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.streams[streamID]
	if s == nil {
		s = f.departed[streamID]
	}
	if s == nil || s.dataPlane.ID != dataPlaneID {
		return false
	}
	now := f.clock()
	s.heardAt = now
	waiting := s.pending[:0]
	for _, t := range s.pending {
		if !at.Holds(t.tx) {
			waiting = append(waiting, t)
			continue
		}
		t.acknowledged++
		t.slowest = max(t.slowest, now-t.seenAt)
		f.unsaved[t.keyID] = t
		if t.acknowledged == t.dataPlanes {
			f.saveNow()
		}
	}
	s.pending = waiting
	return true
}

// takeForwarded takes what other replicas were told in place of this one.
func (f *Feed) takeForwarded(ctx context.Context) error {
	f.mu.Lock()
	streams := len(f.streams) + len(f.departed)
	f.mu.Unlock()
	if streams == 0 {
		return nil
	}
	forwarded, err := f.store.TakeForwarded(ctx, f.replica)
	for _, s := range forwarded {
		if at, bad := models.ParsePosition(s.Forwarded); bad == nil {
			f.acknowledge(s.DataPlaneID, s.ID, at)
		}
	}
	return err
}

// tally counts who has acknowledged one revocation at this replica. It is the feed's, under its lock.
type tally struct {
	keyID        string
	customerID   string
	tx           int64
	seenAt       time.Duration
	dataPlanes   int
	acknowledged int
	slowest      time.Duration
}

// note opens a tally for each revocation, of the streams that are to hear of it, and of those that have ended so lately that
// their leases run on.
func (f *Feed) note(changes []models.Change) {
	now := f.clock()
	for _, c := range changes {
		if c.Type != models.EventKeyRevoked {
			continue
		}
		t := f.open(c, now)
		for _, streams := range []map[string]*Stream{f.streams, f.departed} {
			for _, s := range streams {
				if s.dataPlane.Serves(c.CustomerID) {
					f.await(s, t)
				}
			}
		}
	}
}

func (f *Feed) open(c models.Change, seenAt time.Duration) *tally {
	t := &tally{keyID: c.KeyID, customerID: c.CustomerID, tx: c.Tx, seenAt: seenAt}
	f.tallies[c.KeyID] = t
	return t
}

// await has a tally wait for a stream.
func (f *Feed) await(s *Stream, t *tally) {
	s.pending = append(s.pending, t)
	t.dataPlanes++
	f.unsaved[t.keyID] = t
}

// excuse has all tallies wait for a stream no longer.
func (f *Feed) excuse(s *Stream) {
	for _, t := range s.pending {
		t.dataPlanes--
		f.unsaved[t.keyID] = t
	}
	s.pending = nil
}
