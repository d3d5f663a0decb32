package feed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

const (
	// queueLength is how many messages a stream may be behind: a minute's heartbeats, or a burst.
	queueLength = 64
	// streamLife is how long a stream lasts at the least; up to half as much again is added, so that they end apart. It bounds
	// how far the clocks of the two ends drift apart within one: 0.1 s if they differ by a ten-thousandth.
	streamLife = 15 * time.Minute
	// maxBacklog is how many changes a stream may have missed to resume.
	maxBacklog = 1_000
	// maxResumes is how many streams read their backlog at once.
	maxResumes = 4
)

// Why streams end.
const (
	endSlow     = "slow"
	endSilent   = "silent"
	endRevoked  = "revoked"
	endClosed   = "closed"
	endBuried   = "buried"
	endRestored = "restored"
	endReplaced = "replaced"
	endStopping = "stopping"
)

// Subscription is what a data plane asks for.
type Subscription struct {
	DataPlane models.DataPlane
	// Previous is the id of the stream that this one carries on; empty for none.
	Previous string
	// Resume is the position to resume from; nil begins now.
	Resume *models.Position
	// MaxStale is how much longer than its lease the data plane serves while nobody answers.
	MaxStale time.Duration
	// Arrived is when the request for it did, by a clock that nothing steps. Zero is now.
	Arrived time.Time
}

// Stream is one connection of a data plane.
type Stream struct {
	feed      *Feed
	id        string
	dataPlane models.DataPlane
	maxStale  time.Duration
	first     []byte // what is written before anything else
	queue     chan message
	gone      chan struct{} // closed when the stream has ended
	last      message       // what is written when it has, if anything; set before

	writing sync.Mutex      // held to queue a message, too
	socket  syscall.RawConn // nil while there is none
	idle    bool            // whether the stream's own goroutine leaves the socket to others, with nothing in the queue
	torn    bool            // whether others have left a message half written

	// The rest is the feed's, under its lock.
	heardAt time.Duration // when it last acknowledged anything
	booked  bool          // whether its row is in the database, until another stream takes its place
	until   time.Duration // of one that has ended: when its lease has run out
	pending []*tally
}

// Subscribe opens a stream, which Serve must serve. Until the feed has read from the database, it is models.ErrUnavailable.
func (f *Feed) Subscribe(ctx context.Context, sub Subscription) (*Stream, error) {
	s := &Stream{
		feed: f, id: f.ids.Next("", time.Now()), dataPlane: sub.DataPlane, maxStale: sub.MaxStale,
		queue: make(chan message, queueLength), gone: make(chan struct{}), heardAt: f.clock(),
	}
	arrived := s.heardAt
	if !sub.Arrived.IsZero() {
		arrived -= time.Since(sub.Arrived)
	}
	if err := f.ensureAlive(ctx); err != nil {
		return nil, err
	}
	start, readAt, within, err := f.join(s)
	if err != nil {
		return nil, err
	}
	backlog, err := f.catchUp(ctx, s, sub, start)
	if err != nil {
		f.abandon(s)
		return nil, err
	}
	// On the books before anything is written: whoever has a lease counts.
	err = f.store.OpenStream(ctx, models.Stream{
		ID: s.id, DataPlaneID: sub.DataPlane.ID, ReplicaID: f.replica, MaxStaleMs: int(sub.MaxStale.Milliseconds()),
		Settled: start.Xmin, Position: start.String(),
	}, sub.Previous)
	if err != nil {
		f.leave(s) // it may be on the books all the same
		return nil, err
	}
	if !f.replace(s, sub.Previous) {
		return nil, fmt.Errorf("%w: the stream ended before it began", models.ErrUnavailable)
	}
	s.first = slices.Concat(s.hello(arrived, within), backlog, heartbeatFrame(start, readAt, within))
	return s, nil
}

// join adds a stream, which gets all changes that are not in the position returned.
func (f *Feed) join(s *Stream) (start models.Position, readAt time.Duration, within int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ready || f.stopped {
		return start, 0, 0, fmt.Errorf("%w: no changes are read", models.ErrUnavailable)
	}
	f.streams[s.id] = s
	return f.position, f.readAt, f.acknowledgeWithin(), nil
}

// replace ends the stream that this one carries on, takes over what that had yet to acknowledge, which is in this one's
// backlog, and tells whether this one goes on.
func (f *Feed) replace(s *Stream, previous string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.streams[previous]; old != nil && old.dataPlane.ID == s.dataPlane.ID {
		f.end(old, endReplaced)
	}
	if old := f.departed[previous]; old != nil && old.dataPlane.ID == s.dataPlane.ID {
		s.pending, old.pending = append(s.pending, old.pending...), nil
		delete(f.departed, previous)
	}
	s.booked = true
	if f.streams[s.id] == nil {
		f.depart(s) // anew, as its row may have come after it had been dropped
		return false
	}
	return true
}

// abandon forgets a stream that is not on the books.
func (f *Feed) abandon(s *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.excuse(s)
	delete(f.streams, s.id)
	delete(f.departed, s.id)
}

// hello rounds its time up, where heartbeats round theirs down: a lease is rather too short than too long.
func (s *Stream) hello(arrived time.Duration, within int) []byte {
	clock, lease := (arrived + time.Millisecond - 1).Milliseconds(), int(s.feed.lease.Milliseconds())
	return frame(gen.StreamMessage{
		Type: "hello", SessionID: &s.id, ReplicaID: &s.feed.replica, ClockMs: &clock, LeaseMs: &lease, AcknowledgeWithinMs: &within,
	})
}

// Serve writes the stream as an HTTP response, until the data plane leaves, ctx ends, or the feed ends the stream. Messages go
// to the socket of the connection, past w: it must be nil where the response is not chunked or anything, such as TLS, comes
// between the two.
func (s *Stream) Serve(ctx context.Context, w http.ResponseWriter, socket syscall.RawConn) error {
	defer s.feed.leave(s)
	out := newOutput(w, socket)
	if err := out.control.SetReadDeadline(time.Time{}); err != nil { // the server's is for requests
		return fmt.Errorf("stream: %w", err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // tells nginx not to wait for more
	w.WriteHeader(http.StatusOK)
	select {
	case <-s.gone:
		return nil // the first message would begin a lease
	default:
	}
	err := out.begin(s.first)
	s.socket = socket
	if err == nil {
		err = s.write(ctx, out)
	}
	out.end(s.retire() || err != nil) // the data plane has left, or reads too slowly; it comes back
	return nil
}

// write writes what is queued until the stream ends.
func (s *Stream) write(ctx context.Context, out *output) error {
	life := time.NewTimer(streamLife + rand.N(streamLife/2)) //nolint:gosec // spreads load, guards nothing
	defer life.Stop()
	for done := ctx.Done(); ; {
		s.rest()
		select {
		case m := <-s.queue:
			if err := out.write(m, s.queue); err != nil {
				return err
			}
		case <-s.gone:
			if s.retire() || s.last.empty() {
				return nil
			}
			return out.write(s.last, nil)
		case <-done:
			return nil
		case <-life.C:
			return nil
		}
	}
}

func (f *Feed) leave(s *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(s, endClosed)
}
