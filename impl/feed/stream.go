package feed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

const (
	// queueLength is how many messages a stream may be behind: a minute's heartbeats, or a burst.
	queueLength = 64
	// writeTimeout is how long a data plane may take to read what is written to it.
	writeTimeout = time.Second
	// streamLife is how long a stream lasts at the least; up to half as much again is added, so that they end apart. It bounds
	// how far the clocks of the two ends drift apart within one: 0.1 s if they differ by a ten-thousandth.
	streamLife = 15 * time.Minute
	// maxBacklog is how many changes a stream may have missed to resume.
	maxBacklog = 1_000
	// maxResumes is how many streams read their backlog at once.
	maxResumes = 4
	// streamsPerMs is how many acknowledgements a replica is sent each millisecond, when all come at once.
	streamsPerMs = 20
)

// Why streams end.
const (
	endSlow     = "slow"
	endSilent   = "silent"
	endRevoked  = "revoked"
	endClosed   = "closed"
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
}

// Stream is one connection of a data plane.
type Stream struct {
	feed      *Feed
	id        string
	dataPlane models.DataPlane
	maxStale  time.Duration
	first     []byte // what is written before anything else
	queue     chan []byte
	gone      chan struct{} // closed when the stream has ended

	// The rest is the feed's, under its lock.
	heardAt time.Duration // when it last acknowledged anything
	until   time.Duration // of one that has ended: when its lease has run out
	pending []*tally
}

// Subscribe opens a stream, which Serve must serve. Until the feed has read from the database, it is models.ErrUnavailable.
func (f *Feed) Subscribe(ctx context.Context, sub Subscription) (*Stream, error) {
	arrived := f.clock()
	f.mu.Lock()
	ready, position := f.ready && !f.stopped, f.position
	f.mu.Unlock()
	if !ready {
		return nil, fmt.Errorf("%w: no changes have been read yet", models.ErrUnavailable)
	}
	s := &Stream{
		feed: f, id: f.ids.Next("", time.Now()), dataPlane: sub.DataPlane, maxStale: sub.MaxStale,
		queue: make(chan []byte, queueLength), gone: make(chan struct{}), heardAt: arrived,
	}
	// On the books first: whoever has a lease counts.
	err := f.store.OpenStream(ctx, models.Stream{
		ID: s.id, DataPlaneID: sub.DataPlane.ID, ReplicaID: f.replica, MaxStaleMs: int(sub.MaxStale.Milliseconds()),
		Settled: position.Xmin, Position: position.String(),
	}, sub.Previous)
	if err != nil {
		return nil, err
	}
	f.beat()
	start, readAt, within := f.join(s, sub.Previous)
	backlog, err := f.backlog(ctx, s, sub.Resume, start)
	if err != nil {
		f.leave(s)
		return nil, err
	}
	s.first = slices.Concat(s.hello(arrived, within), backlog, heartbeatFrame(start, readAt))
	return s, nil
}

// join adds a stream, which gets all changes that are not in the position returned. It takes over what the one that it
// carries on had yet to acknowledge: that is in its backlog.
func (f *Feed) join(s *Stream, previous string) (start models.Position, readAt time.Duration, within int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.streams[previous]; old != nil && old.dataPlane.ID == s.dataPlane.ID {
		f.end(old, endReplaced)
	}
	if old := f.departed[previous]; old != nil && old.dataPlane.ID == s.dataPlane.ID {
		s.pending, old.pending = old.pending, nil
		delete(f.departed, previous)
	}
	if f.stopped {
		close(s.gone)
	} else {
		f.streams[s.id] = s
	}
	return f.position, f.readAt, min(len(f.streams)/streamsPerMs, 1000)
}

// backlog returns the frames of what the data plane has missed: nothing for one that begins now.
func (f *Feed) backlog(ctx context.Context, s *Stream, resume *models.Position, start models.Position) ([]byte, error) {
	if resume == nil {
		return nil, nil
	}
	if resume.Xmax > start.Xmax {
		return resetFrame(), nil // of another database
	}
	select {
	case f.resumes <- struct{}{}:
		defer func() { <-f.resumes }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	changes, _, err := f.store.Changes(ctx, *resume, maxBacklog+1)
	if err != nil {
		return nil, err
	}
	if len(changes) > maxBacklog {
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

func (s *Stream) hello(arrived time.Duration, within int) []byte {
	clock, lease := arrived.Milliseconds(), int(s.feed.lease.Milliseconds())
	return frame(gen.StreamMessage{
		Type: "hello", SessionID: &s.id, ReplicaID: &s.feed.replica, ClockMs: &clock, LeaseMs: &lease, AcknowledgeWithinMs: &within,
	})
}

// Serve writes the stream as an HTTP response, until the data plane leaves, ctx ends, or the feed ends the stream.
func (s *Stream) Serve(ctx context.Context, w http.ResponseWriter) error {
	defer s.feed.leave(s)
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Time{}); err != nil { // the server's is for requests
		return fmt.Errorf("stream: %w", err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // tells nginx not to wait for more
	w.WriteHeader(http.StatusOK)
	life := time.NewTimer(streamLife + rand.N(streamLife/2))
	defer life.Stop()
	for message := s.first; ; {
		if err := s.write(control, w, message); err != nil {
			return nil //nolint:nilerr // the data plane has left, or reads too slowly; it comes back
		}
		select {
		case message = <-s.queue:
		case <-s.gone:
			return nil
		case <-ctx.Done():
			return nil
		case <-life.C:
			return nil
		}
	}
}

// write sends a message and all that have queued up behind it.
func (s *Stream) write(control *http.ResponseController, w http.ResponseWriter, message []byte) error {
	if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	for {
		if _, err := w.Write(message); err != nil {
			return err
		}
		select {
		case message = <-s.queue:
		default:
			return control.Flush()
		}
	}
}

func (f *Feed) leave(s *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(s, endClosed)
}
