package feed

import (
	"maps"
	"slices"
	"time"

	"github.com/agentrouter/aikeys/models"
)

// publish tells all streams of changes, and of the time up to which they know all, and returns whether that extended leases.
func (f *Feed) publish(changes []models.Change, now models.Position, began time.Duration, due bool) bool {
	frames := make([][]byte, len(changes))
	for i, c := range changes {
		frames[i] = changeFrame(c)
		f.metrics.changes.WithLabelValues(string(c.Type)).Inc()
	}
	streams, end := f.advance(changes, now, began, due)
	whole := newMessage(slices.Concat(frames, [][]byte{end})...)
	f.deliver(streams, func(s *Stream) message {
		if s.dataPlane.Customers == nil || len(changes) == 0 {
			return whole
		}
		return newMessage(append(s.filter(changes, frames), end)...)
	})
	return len(end) > 0
}

// advance takes over a position that was read up to, and returns who is to be told, and the heartbeat to tell them; nobody
// if that can wait. Streams that come later begin at this position.
func (f *Feed) advance(changes []models.Change, now models.Position, began time.Duration, due bool) ([]*Stream, []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.position, f.readAt = now, began
	f.note(changes)
	f.nextTurn()
	if len(changes) == 0 && (!due && began-f.told < f.lease/4 || !f.mayHeartbeat()) {
		return nil, nil
	}
	return f.everybody(), f.heartbeat()
}

// everybody returns all streams as they are now.
func (f *Feed) everybody() []*Stream {
	return slices.AppendSeq(make([]*Stream, 0, len(f.streams)), maps.Values(f.streams))
}

// heartbeat is the frame that extends the leases to the last read; empty while this replica may not.
func (f *Feed) heartbeat() []byte {
	if !f.mayHeartbeat() {
		return nil
	}
	f.told = f.readAt
	return heartbeatFrame(f.position, f.readAt, f.acknowledgeWithin())
}

// acknowledgeWithin is the time, in milliseconds, over which data planes spread their acknowledgements of a revocation: one a
// millisecond comes to each replica, but none so late that leases have run out before.
func (f *Feed) acknowledgeWithin() int {
	return min(len(f.streams), int(f.lease.Milliseconds())/2)
}

func (f *Feed) mayHeartbeat() bool {
	return f.clock()-time.Duration(f.beatAt.Load()) < f.beatGrace
}

// begin takes over a position that nobody has read up to.
func (f *Feed) begin(now models.Position, began time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeOver(now, began)
}

func (f *Feed) takeOver(now models.Position, began time.Duration) {
	f.position, f.ready, f.readAt, f.since = now, true, began, f.clock()
	f.nextTurn()
}

// restart makes every stream begin anew.
func (f *Feed) restart(now models.Position, began time.Duration) {
	f.mu.Lock()
	f.takeOver(now, began)
	reset := newMessage(resetFrame(), f.heartbeat())
	streams := f.everybody()
	f.mu.Unlock()
	f.deliver(streams, func(*Stream) message { return reset })
}

// expel ends every stream, to begin anew: with the later state of the database, the rows of the streams are lost. The numbers
// of transactions will be used again.
func (f *Feed) expel(now models.Position, began time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeOver(now, began)
	f.tallies, f.unsaved = map[string]*tally{}, map[string]*tally{}
	last := newMessage(resetFrame(), heartbeatFrame(now, 0, 0)) // a position to resume from, which extends no lease
	for _, s := range f.streams {
		s.last = last
		f.end(s, endRestored)
	}
}

// filter returns the frames of the changes that the stream's data plane may know of.
func (s *Stream) filter(changes []models.Change, frames [][]byte) [][]byte {
	var own [][]byte
	for i, c := range changes {
		if s.dataPlane.Serves(c.CustomerID) {
			own = append(own, frames[i])
		}
	}
	return own
}

// end ends a stream, once. Its lease may run on, so it stays on the books.
func (f *Feed) end(s *Stream, reason string) {
	if _, open := f.streams[s.id]; !open {
		return
	}
	delete(f.streams, s.id)
	f.depart(s)
	f.metrics.ended.WithLabelValues(reason).Inc()
	close(s.gone)
}

// depart keeps a stream on the books for as long as its lease may run.
func (f *Feed) depart(s *Stream) {
	s.until = f.clock() + f.lease + s.maxStale
	f.departed[s.id] = s
}

func (f *Feed) nextTurn() {
	close(f.turn)
	f.turn = make(chan struct{})
}

// stop ends all streams, and whatever awaits a receipt.
func (f *Feed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	for _, s := range f.streams {
		f.end(s, endStopping)
	}
	f.nextTurn()
}
