package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second
	// slowBackoff is for a control plane that turns us away: it refuses the credential or the grace, or too many come.
	slowBackoff = 2 * time.Second
	// minSilence is the shortest time without a message after which a link counts as dead.
	minSilence = 50 * time.Millisecond
)

var (
	errQuiet    = errors.New("no message came for too long")
	errTurned   = errors.New("the control plane turns the stream away for now")
	errSession  = errors.New("the control plane no longer knows the stream")
	errResume   = errors.New("the control plane does not understand what the stream should carry on")
	errNotFirst = fmt.Errorf("stream: %w: hello must come first, and once", errGarbage)
)

// channel is what is known of the stream, and what outlives one connection of it.
type channel struct {
	connected bool
	tooStale  bool // the control plane allows no such grace
	failing   bool // it was told that no stream can be opened
	session   string
	replica   string
	position  string // of the last heartbeat
}

// follow keeps a stream open until ctx ends.
func (r *Resolver) follow(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		beat, err := r.followOnce(ctx)
		if beat {
			backoff = minBackoff
		}
		r.noteEnd(ctx, err)
		wait := backoff/2 + rand.N(backoff/2) //nolint:gosec // spreads load, guards nothing
		backoff = min(2*backoff, maxBackoff)
		if errors.Is(err, ErrDataPlaneUnauthenticated) || errors.Is(err, errTurned) || errors.As(err, new(*tooStale)) {
			wait += slowBackoff
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// noteEnd takes down that a stream has ended or could not be opened. It logs the first of failures in a row.
func (r *Resolver) noteEnd(ctx context.Context, err error) {
	refused, stale := errors.Is(err, ErrDataPlaneUnauthenticated), errors.As(err, new(*tooStale))
	r.channelMu.Lock()
	was := r.channel
	r.channel.connected, r.channel.failing = false, !was.connected
	r.channel.tooStale = stale
	if errors.Is(err, errResume) { // it came from who knows whom: begin anew
		r.channel.session, r.channel.position = "", ""
	}
	r.channelMu.Unlock()
	known := r.standing.refused()
	if refused {
		r.standing.refuse(r.clock.Now())
	}
	switch {
	case ctx.Err() != nil:
	case refused && (!known || was.connected):
		r.log.ErrorContext(ctx, "the control plane refuses this data plane's credential; trying on", "error", err)
	case stale && !was.tooStale:
		r.log.ErrorContext(ctx, "the control plane refuses this data plane's max-stale, so it gets no lease; trying on", "error", err)
	case was.connected:
		r.log.InfoContext(ctx, "the stream of events has ended; connecting anew", "error", err)
	case !was.failing:
		r.log.WarnContext(ctx, "no stream of events can be opened; trying on", "error", err)
	}
}

// followOnce opens the stream and follows it to its end. It tells whether a heartbeat came.
func (r *Resolver) followOnce(ctx context.Context) (beat bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(r.cfg.FetchTimeout, func() { cancel(errQuiet) })
	defer silence.Stop()

	r.channelMu.Lock()
	last := r.channel
	r.channelMu.Unlock()
	maxStale := int((r.cfg.MaxStale + time.Millisecond - 1).Milliseconds()) // declares no less than is used
	params := gen.StreamEventsParams{
		PreviousSessionID: optional(last.session), LastEventID: optional(last.position), MaxStaleMs: &maxStale,
	}
	response, anchor, err := r.open(ctx, &params)
	if err != nil {
		return false, ended(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	s := &session{r: r, anchor: anchor, resumes: last.position != "", acks: newAcker(r)}
	if err := readTooStale(response, r.cfg.MaxStale); err != nil {
		return false, err
	}
	if err := checkStream(response, last.session != "" || last.position != ""); err != nil {
		return false, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.acks.run(ctx, cancel)
	}()
	err = s.follow(response.Body, silence)
	err = ended(ctx, err)
	cancel(nil)
	<-done
	if errors.Is(err, errQuiet) {
		r.idle() // those for single requests go the same dead way
	}
	return s.beats, err
}

// open asks for the stream. It returns the time right before the request was sent, when the connection was there: what
// it took to dial does not count against the lease.
func (r *Resolver) open(
	ctx context.Context, params *gen.StreamEventsParams,
) (response *http.Response, anchor time.Duration, err error) {
	var sent atomic.Int64
	note := func() { sent.Store(int64(r.clock.Now())) }
	note()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { note() }})
	response, err = r.stream.StreamEvents(ctx, params, func(_ context.Context, request *http.Request) error {
		request.Header.Set("Accept", "text/event-stream")
		return nil
	})
	return response, time.Duration(sent.Load()), err
}

// ended prefers the reason why we ended the stream ourselves.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func checkStream(response *http.Response, resumes bool) error {
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case response.StatusCode == http.StatusUnauthorized:
		return ErrDataPlaneUnauthenticated
	case response.StatusCode == http.StatusTooManyRequests:
		return errTurned
	case response.StatusCode == http.StatusBadRequest && resumes:
		return errResume
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("stream: it answers %d; is %s the data-plane API?", response.StatusCode, response.Request.URL.Host)
	case kind != "text/event-stream":
		return fmt.Errorf("stream: %w: it is no stream of events", errGarbage)
	}
	return nil
}

// session is one connection of the stream.
type session struct {
	r       *Resolver
	acks    *acker
	anchor  time.Duration // our time before the request was sent, taken for that of hello
	resumes bool

	greeted  bool
	clock    int64 // the replica's, in hello
	term     time.Duration
	leaseEnd time.Duration
	urgent   bool // somebody may be waiting for the next receipt
	beats    bool
}

// follow handles the stream's messages in their order. It returns an error when the stream ends, as it always does.
func (s *session) follow(body io.Reader, silence *time.Timer) error {
	events := newSSEReader(body)
	for {
		m, err := events.next()
		if err != nil {
			return err
		}
		if err := s.handle(&m, events.id); err != nil {
			return err
		}
		silence.Reset(max(s.term*3/2, minSilence))
	}
}

func (s *session) handle(m *gen.StreamMessage, id string) error {
	if s.greeted == (m.Type == typeHello) {
		return errNotFirst
	}
	switch m.Type {
	case typeHello:
		return s.hello(m)
	case typeHeartbeat:
		return s.heartbeat(m, id)
	case typeReset:
		s.r.store.dropAll()
		s.urgent = true
	default:
		ev := newEvent(m)
		s.r.store.apply(ev)
		s.r.metrics.events.WithLabelValues(ev.label()).Inc()
		s.urgent = s.urgent || ev.urgent()
	}
	return nil
}

// hello begins the stream. One that resumes nothing vouches for nothing that is cached.
func (s *session) hello(m *gen.StreamMessage) error {
	if m.SessionID == nil || m.ClockMs == nil || m.LeaseMs == nil || *m.SessionID == "" {
		return fmt.Errorf("stream: %w: hello lacks a field", errGarbage)
	}
	s.greeted, s.urgent = true, true // the first receipt tells that we are here
	s.clock = *m.ClockMs
	s.term = milliseconds(int64(*m.LeaseMs), time.Hour)
	s.acks.session = *m.SessionID
	s.acks.within.Store(int64(milliseconds(int64(value(m.AcknowledgeWithinMs)), time.Minute)))
	if !s.resumes {
		s.r.store.dropAll()
	}
	s.r.standing.accept(s.anchor)
	s.r.health.heard(s.r.clock.Now()) // before changes come that may have to be asked about
	s.r.term.Store(int64(s.term))
	s.r.channelMu.Lock()
	defer s.r.channelMu.Unlock()
	if s.r.channel.failing {
		s.r.log.InfoContext(context.Background(), "the stream of events is open again")
	}
	s.r.channel.connected, s.r.channel.failing = true, false
	s.r.channel.tooStale = false
	s.r.channel.session, s.r.channel.replica = *m.SessionID, value(m.ReplicaID)
	return nil
}

// heartbeat extends the lease: everything up to its time has been told, and applied.
func (s *session) heartbeat(m *gen.StreamMessage, id string) error {
	if _, err := ParsePosition(id); err != nil || m.ClockMs == nil {
		return fmt.Errorf("stream: %w: a heartbeat lacks a position or a time", errGarbage)
	}
	s.r.channelMu.Lock()
	s.r.channel.position = id
	s.r.channelMu.Unlock()
	// Never beyond a full lease from now, whatever the replica's clock does.
	since := elapsed(s.clock, *m.ClockMs)
	end := min(s.anchor+since, s.r.clock.Now()) + s.term
	if !s.beats || end > s.leaseEnd {
		s.leaseEnd = end
		s.r.leaseEnd.Store(int64(end))
	}
	s.beats = true
	if within := m.AcknowledgeWithinMs; within != nil {
		s.acks.within.Store(int64(milliseconds(int64(*within), time.Minute)))
	}
	s.acks.note(id, s.urgent)
	s.urgent = false
	return nil
}

// elapsed returns the time between two readings of a replica's clock, bounded so that nonsense can't overflow.
func elapsed(from, to int64) time.Duration {
	const limit = int64(30 * 24 * time.Hour / time.Millisecond)
	if to < from {
		return -time.Duration(min(uint64(from)-uint64(to), uint64(limit))) * time.Millisecond //nolint:gosec // within limit
	}
	return time.Duration(min(uint64(to)-uint64(from), uint64(limit))) * time.Millisecond //nolint:gosec // within limit
}
