package feed

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

// publish tells all streams of changes, and of the time up to which they know all. A stream whose queue is full is ended: it
// must resume, and no other waits for it.
func (f *Feed) publish(changes []models.Change, now models.Position, began time.Duration, due bool) {
	frames := make([][]byte, len(changes))
	for i, c := range changes {
		frames[i] = changeFrame(c)
		f.metrics.changes.WithLabelValues(string(c.Type)).Inc()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.position, f.readAt = now, began
	f.note(changes)
	f.nextTurn()
	if len(changes) == 0 && (!due && began-f.told < f.lease/4 || !f.mayHeartbeat()) {
		return
	}
	end := f.heartbeat()
	whole := slices.Concat(slices.Concat(frames...), end)
	for _, s := range f.streams {
		message := whole
		if s.dataPlane.Customers != nil && len(changes) > 0 {
			message = slices.Concat(append(s.filter(changes, frames), end)...)
		}
		f.send(s, message)
	}
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

// send hands a message to a stream; a stream that is too slow for it is ended.
func (f *Feed) send(s *Stream, message []byte) {
	if len(message) == 0 {
		return
	}
	select {
	case s.queue <- message:
	default:
		f.end(s, endSlow)
	}
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
	defer f.mu.Unlock()
	f.takeOver(now, began)
	message := slices.Concat(resetFrame(), f.heartbeat())
	for _, s := range f.streams {
		f.send(s, message)
	}
}

// expel ends every stream, to begin anew: with the later state of the database, the rows of the streams are lost. The numbers
// of transactions will be used again.
func (f *Feed) expel(now models.Position, began time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeOver(now, began)
	f.tallies, f.unsaved = map[string]*tally{}, map[string]*tally{}
	last := slices.Concat(resetFrame(), heartbeatFrame(now, 0, 0)) // a position to resume from, which extends no lease
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

// frame is one server-sent event. JSON has no line ends of its own.
func frame(message gen.StreamMessage) []byte {
	data, err := json.Marshal(message)
	if err != nil {
		data = []byte(`{"type":"reset"}`) // can't happen: strings and numbers alone
	}
	text := append([]byte("event: "), message.Type...)
	return append(append(append(text, "\ndata: "...), data...), "\n\n"...)
}

func changeFrame(c models.Change) []byte {
	return frame(gen.StreamMessage{
		Type: string(c.Type), Tx: &c.Tx, CustomerID: &c.CustomerID, ProjectID: &c.ProjectID,
		Provider: optional(c.Provider), KeyID: optional(c.KeyID), UserID: optional(c.UserID), TokenID: optional(c.TokenID),
	})
}

func heartbeatFrame(position models.Position, at time.Duration, within int) []byte {
	text := append([]byte("id: "), position.String()...)
	text = append(text, "\nevent: heartbeat\ndata: {\"type\":\"heartbeat\",\"clock_ms\":"...)
	text = append(strconv.AppendInt(text, at.Milliseconds(), 10), ",\"acknowledge_within_ms\":"...)
	return append(strconv.AppendInt(text, int64(within), 10), "}\n\n"...)
}

func resetFrame() []byte { return frame(gen.StreamMessage{Type: "reset"}) }

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
