package feed

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
)

const (
	// queueLength is how many messages a stream may be behind: the heartbeats of half a minute, or a burst of changes.
	queueLength = 64
	// writeTimeout is how long a data plane may take to read a message.
	writeTimeout = time.Second
	// streamLife is the least age at which a stream ends. A stream lives up to half as long again, at random, so that
	// streams do not end together. The age bounds how far the clocks of both ends drift apart: by 0.1 s if their speeds
	// differ by a ten-thousandth.
	streamLife = 15 * time.Minute
	// maxPageGrowth is how many times larger than the first page of a backlog later pages get.
	maxPageGrowth = 16
	// backlogShare limits the time to read a backlog to 1/backlogShare of a lease. The lease counts from before the
	// request was sent: if reading took much longer, the lease would end soon after the stream begins.
	backlogShare = 4
	// maxBacklogReads is how many streams read their backlog at the same time.
	maxBacklogReads = 4
)

// Why a stream has ended: values of the metric aikeys_feed_streams_ended_total.
const (
	endClosed   = "closed"   // the data plane left, or the stream reached its age
	endSlow     = "slow"     // its queue was full
	endSilent   = "silent"   // it acknowledged nothing for too long
	endRevoked  = "revoked"  // the data plane's credential has ended
	endReplaced = "replaced" // another stream of the data plane continues it
	endReaped   = "buried"   // other replicas may have considered this one dead and deleted the stream's row
	endRestored = "restored" // the database was restored from a backup
	endStopping = "stopping" // Run has ended
)

// streamState is where a stream is in its life. The states follow one another; docs/feed.md draws them.
type streamState int

const (
	// stateJoined is a stream that gets all changes from its start on, but is not in the database yet. Nothing is written
	// to the data plane, so the stream carries no lease.
	stateJoined streamState = iota
	// statePersisted is a stream whose row is in the database, so that every replica's receipts count it. Serve writes it.
	statePersisted
	// stateDraining is a stream that has ended while its lease may run on. Its row stays, and receipts still count it.
	stateDraining
	// stateDropped is a stream whose lease has run out or that another stream has replaced. The feed has forgotten it.
	stateDropped
)

// Subscription is a data plane's request for a stream.
type Subscription struct {
	DataPlane models.DataPlane
	// Previous is the id of the stream that this one continues; empty if there is none.
	Previous string
	// Resume is the position to resume from; nil starts at the present.
	Resume *position.Position
	// MaxStale is the grace: how much longer than its lease the data plane serves from its cache while nobody answers.
	MaxStale time.Duration
	// TestsKeys is whether the data plane tests keys for the control plane.
	TestsKeys bool
	// Arrived is when the request arrived. Only its monotonic reading counts.
	Arrived time.Time
}

// Stream is one connection of a data plane.
type Stream struct {
	// Subscribe sets these, and nothing changes them afterwards.
	Subscription

	feed  *Feed
	id    string
	first []byte        // hello, the missed changes, and a heartbeat
	queue chan []byte   // messages to write, in order; feed.sendMessage is the only sender
	ended chan struct{} // closed when the state becomes stateDraining

	// last is the last message, written after ended is closed; nil if there is none. It is set before ended is closed
	// and never changes afterwards.
	last []byte

	// feed.mu guards the rest.
	state streamState
	// hasRow is true if the row was stored, and no other replica can have considered this replica dead and deleted the
	// row. If hasRow is true and the row is missing, another stream has replaced this stream.
	hasRow bool
	// acknowledgedAt is when the data plane last acknowledged anything, or joined.
	acknowledgedAt time.Duration
	// leaseEnd is when the lease and the grace of a draining stream have run out.
	leaseEnd time.Duration
	// serving is the count that the stream was last sent. uncounted is 1 if the count lacks this stream.
	serving   *serving
	uncounted int
	// pending holds the tallies that wait for this stream to acknowledge.
	pending []*tally
}

// isOpen reports whether the stream has not ended. The caller holds feed.mu.
func (s *Stream) isOpen() bool { return s.state == stateJoined || s.state == statePersisted }

// Subscribe opens a stream, which Serve must serve. Until the feed has read from the database, the error is
// models.ErrUnavailable.
func (f *Feed) Subscribe(ctx context.Context, sub Subscription) (*Stream, error) {
	s := &Stream{
		Subscription: sub, feed: f, id: f.ids.Next("", time.Now()),
		queue: make(chan []byte, queueLength), ended: make(chan struct{}), acknowledgedAt: f.clock(),
	}
	if sub.Previous == "" {
		s.uncounted = 1
	}
	arrived := s.acknowledgedAt - time.Since(sub.Arrived)
	if err := f.ensureReplicaHeartbeat(ctx, 2*f.params.maintenance); err != nil {
		return nil, err
	}
	start, within, first, err := f.joinStream(s)
	if err != nil {
		return nil, err
	}
	backlog, err := f.readBacklog(ctx, s, start, arrived)
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.dropFromTallies(s)
		f.dropStream(s)
		return nil, err
	}
	// The row comes before the first message: receipts must count every stream that carries a lease.
	err = f.store.OpenStream(ctx, models.Stream{
		ID: s.id, DataPlaneID: sub.DataPlane.ID, ReplicaID: f.replicaID, MaxStaleMs: int(sub.MaxStale.Milliseconds()), TestsKeys: sub.TestsKeys,
		Settled: start.Xmin, Position: start.String(),
	}, sub.Previous)
	if err != nil {
		f.closeStream(s) // not dropped, since the row may have been written in spite of the error
		return nil, err
	}
	if !f.markPersisted(s) {
		return nil, fmt.Errorf("%w: the stream ended before it began", models.ErrUnavailable)
	}
	s.first = slices.Concat(s.helloFrame(arrived, within), backlog, first)
	return s, nil
}

// joinStream adds a stream to the feed. From then on, the feed sends it every change that is not in the start position.
// The first heartbeat has the same position.
func (f *Feed) joinStream(s *Stream) (start position.Position, within int, heartbeat []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ready || f.serving == nil || f.stopped {
		return start, 0, nil, fmt.Errorf("%w: the feed is not running", models.ErrUnavailable)
	}
	f.streams[s.id] = s
	f.open++
	s.serving, f.joined, within = f.serving, true, f.acknowledgeWithin()
	return f.position, within, heartbeatFrame(f.position, f.readAt, within, s), nil
}

// readBacklog returns the frames of the changes between the position to resume from and the stream's start. For a
// stream that starts at the present, it returns no frames. It returns a reset if there are too many changes, if reading
// them takes too long, or if the position is not of this database's history.
func (f *Feed) readBacklog(ctx context.Context, s *Stream, start position.Position, arrived time.Duration) ([]byte, error) {
	if s.Resume == nil {
		return nil, nil
	}
	select {
	case f.backlogSlots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	missed, isWhole, err := f.readMissed(ctx, s, *s.Resume, arrived+f.params.lease/backlogShare)
	<-f.backlogSlots
	if err != nil {
		return nil, err
	}
	if s.Previous != "" {
		if err := f.adoptPending(ctx, s, start, missed); err != nil {
			return nil, err
		}
	}
	if !isWhole {
		return resetFrame(), nil
	}
	var frames []byte
	for _, c := range missed {
		frames = append(frames, changeFrame(c)...)
	}
	return frames, nil
}

// readMissed reads the changes since a position page by page, and returns the changes of the data plane's customers.
// isWhole is false if there are too many changes, if the position is not of this database's history, or if the time is
// up at the end of a page. Reading needs a time limit because other customers' changes take time too, but do not count
// towards the limit on changes. Changes that commit during the read are not missed, because the stream has already
// joined.
func (f *Feed) readMissed(
	ctx context.Context, s *Stream, since position.Position, until time.Duration,
) (missed []models.Change, isWhole bool, err error) {
	resume := since
	for size := f.params.maxBacklog + 1; ; size = min(2*size, maxPageGrowth*f.params.maxBacklog) {
		page, now, err := f.store.Changes(ctx, since, size)
		if err != nil {
			return nil, false, err
		}
		for _, c := range page {
			if s.DataPlane.Serves(c.CustomerID) {
				missed = append(missed, c)
			}
		}
		switch {
		case now.Xmax < resume.Xmax || !now.SameTimeline(resume) || len(missed) > f.params.maxBacklog:
			return missed, false, nil
		case len(page) < size:
			return missed, true, nil
		case f.clock() > until:
			return missed, false, nil
		}
		// The last transaction of a page may have more changes, so the next page begins with it.
		last := page[len(page)-1].Tx
		missed = slices.DeleteFunc(missed, func(c models.Change) bool { return c.Tx == last })
		since = now.Before(last)
	}
}

// markPersisted notes that the stream's row is in the database. If this replica has the previous stream of the data
// plane, markPersisted ends that stream. The tallies that waited for it then wait for the new stream, whose backlog has
// their changes. markPersisted reports whether the new stream is still open.
func (f *Feed) markPersisted(s *Stream) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.streams[s.Previous]; old != nil && old.DataPlane.ID == s.DataPlane.ID {
		f.endStream(old, endReplaced)
		movePending(old, s)
		f.dropStream(old)
	}
	s.hasRow = true
	if s.state != stateJoined {
		f.drainStream(s) // again, since the row may have been written after the stream was dropped
		return false
	}
	s.state = statePersisted
	return true
}

// endStream ends a stream that is open. Its lease may run on, so it drains. The caller holds mu.
func (f *Feed) endStream(s *Stream, reason string) {
	if !s.isOpen() {
		return
	}
	f.open--
	f.drainStream(s)
	f.metrics.ended.WithLabelValues(reason).Inc()
	close(s.ended)
}

// drainStream keeps a stream for as long as its lease and grace may run from now. The caller holds mu.
func (f *Feed) drainStream(s *Stream) {
	s.state, s.leaseEnd = stateDraining, f.clock()+f.params.lease+s.MaxStale
	f.streams[s.id] = s
}

// dropStream forgets a stream. The caller holds mu.
func (f *Feed) dropStream(s *Stream) {
	if s.isOpen() {
		f.open--
	}
	s.state = stateDropped
	delete(f.streams, s.id)
}

func (f *Feed) closeStream(s *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endStream(s, endClosed)
}

// resetStreams makes every data plane drop its cache, and continues at a position whose changes were not read.
func (f *Feed) resetStreams(now position.Position, began time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adoptPosition(now, began)
	message := append(resetFrame(), f.nextHeartbeat(nil)...)
	for _, s := range f.streams {
		f.sendMessage(s, message)
	}
}

// endRestoredStreams ends every stream after the database was restored to an earlier state: the rows of the streams are lost,
// and the numbers of lost transactions will be used again, so no tally means anything any more.
func (f *Feed) endRestoredStreams(now position.Position, began time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adoptPosition(now, began)
	clear(f.tallies)
	clear(f.unsaved)
	last := append(resetFrame(), heartbeatFrame(now, 0, 0, nil)...) // it has a position, but extends no lease
	for _, s := range f.streams {
		if s.isOpen() {
			s.last = last
			f.endStream(s, endRestored)
		}
	}
}

// endAllStreams ends all streams, and every wait for a receipt.
func (f *Feed) endAllStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	for _, s := range f.streams {
		f.endStream(s, endStopping)
	}
	f.broadcastChanged()
}
