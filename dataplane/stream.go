package dataplane

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
)

const (
	// The waits between attempts to open the stream double from about reconnectMin to about reconnectMax.
	reconnectMin = 40 * time.Millisecond
	reconnectMax = 750 * time.Millisecond
	// refusedDelay is added when the control plane refuses the credential or MaxStale, or has too many requests.
	refusedDelay = 2 * time.Second
	// minSilence is the shortest time without a message after which a connection counts as dead.
	minSilence = 50 * time.Millisecond
	// maxMessage bounds a line of the stream, and a message.
	maxMessage = 64 << 10
	// maxStaleParameter is the parameter that declares Config.MaxStale, and the field that a refusal of it names.
	maxStaleParameter = "max_stale_ms"
	// maxQuoted bounds how much of the control plane's own text is repeated.
	maxQuoted = 200
)

var (
	errQuiet          = errors.New("no message came for too long")
	errLateHello      = errors.New("the stream opened too late to carry a lease")
	errTooMany        = errors.New("the control plane accepts no further stream for now")
	errSessionUnknown = errors.New("the control plane no longer knows the stream")
	errCannotResume   = errors.New("the control plane can't resume the previous stream")
	errHelloFirst     = fmt.Errorf("stream: %w: hello must come first, and once", errProtocol)
)

// tooStaleError says that the control plane does not allow Config.MaxStale.
type tooStaleError struct {
	declared time.Duration
	reason   string // the control plane's text, which names its limit
}

func (e *tooStaleError) Error() string {
	return fmt.Sprintf("the control plane refuses a max-stale of %v: %s %.*s; lower it here, or raise the control plane's --max-stale-limit",
		e.declared, maxStaleParameter, maxQuoted, e.reason)
}

// streamState is the state of the stream that Status shows and that the next connection resumes from.
//
// The stream is connected from hello to its end. Otherwise it is being opened: failing means that the last attempt
// brought no hello, and tooStale that Config.MaxStale was the reason.
type streamState struct {
	connected bool
	failing   bool
	tooStale  bool
	refused   bool   // whether the credential was refused since the last hello
	session   string // of the last hello
	replica   string // of the last hello
	position  string // of the last heartbeat
}

// followStream keeps a stream open until ctx ends.
func (r *Resolver) followStream(ctx context.Context) {
	reconnect := &backoff.ExponentialBackOff{
		InitialInterval: reconnectMin, MaxInterval: reconnectMax, Multiplier: 2, RandomizationFactor: 1. / 3,
	}
	for ctx.Err() == nil {
		gotHeartbeat, err := r.runStream(ctx)
		if gotHeartbeat {
			reconnect.Reset()
		}
		r.recordStreamEnd(ctx, err)
		wait := reconnect.NextBackOff()
		if errors.Is(err, ErrDataPlaneUnauthenticated) || errors.Is(err, errTooMany) || errors.As(err, new(*tooStaleError)) {
			wait += r.cfg.intervals.refused
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// recordStreamEnd records that a stream has ended or could not be opened. It logs only the first of several failures.
func (r *Resolver) recordStreamEnd(ctx context.Context, err error) {
	refused, stale := errors.Is(err, ErrDataPlaneUnauthenticated), errors.As(err, new(*tooStaleError))
	r.streamMu.Lock()
	was := r.streamState
	r.streamState.connected, r.streamState.failing, r.streamState.tooStale = false, !was.connected, stale
	r.streamState.refused = was.refused || refused
	if errors.Is(err, errCannotResume) {
		r.streamState.session, r.streamState.position = "", ""
	}
	r.streamMu.Unlock()
	switch {
	case ctx.Err() != nil:
	case refused && !was.refused:
		r.log.ErrorContext(ctx, "the control plane refuses this data plane's credential, so it serves nobody; retrying", "error", err)
	case stale && !was.tooStale:
		r.log.ErrorContext(ctx, "the control plane refuses this data plane's max-stale, so it gets no lease; retrying", "error", err)
	case was.connected:
		r.log.InfoContext(ctx, "the stream of events has ended; reconnecting", "error", err)
	case !was.failing:
		r.log.WarnContext(ctx, "no stream of events can be opened; retrying", "error", err)
	}
}

// runStream opens the stream and follows it to its end. It reports whether a heartbeat arrived.
func (r *Resolver) runStream(ctx context.Context) (gotHeartbeat bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(r.cfg.FetchTimeout, func() { cancel(errQuiet) })
	defer silence.Stop()

	r.streamMu.Lock()
	last := r.streamState
	r.streamMu.Unlock()
	response, sent, err := r.openStream(ctx, last)
	if err != nil {
		return false, causeOr(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	if err := checkStreamAnswer(response, last, r.cfg.MaxStale); err != nil {
		if errors.Is(err, ErrDataPlaneUnauthenticated) {
			r.refuseCredential(sent)
		}
		return false, err
	}
	s := &session{r: r, sent: sent, resumes: last.position != "", acks: newAcker(r)}
	acked := make(chan struct{})
	go func() {
		defer close(acked)
		s.acks.run(ctx, cancel)
	}()
	err = causeOr(ctx, s.readMessages(response.Body, silence))
	cancel(nil)
	<-acked
	if errors.Is(err, errQuiet) {
		r.closeIdle() // kept connections take the same dead route
	}
	return s.leased, err
}

// openStream requests the stream. It returns the time right before the request was sent on an open connection: the time
// to dial does not count against the lease.
func (r *Resolver) openStream(
	ctx context.Context, last streamState,
) (response *http.Response, sent time.Duration, err error) {
	maxStale := int((r.cfg.MaxStale + time.Millisecond - 1).Milliseconds()) // rounded up: never less than what is used
	params := gen.StreamEventsParams{
		PreviousSessionID: optional(last.session), LastEventID: optional(r.positionActedOn(last.position)), MaxStaleMs: &maxStale,
	}
	if r.cfg.SendTest != nil {
		params.AgentrouterOffers = new(offerOfKeyTests)
	}
	var sentAt atomic.Int64
	stamp := func() { sentAt.Store(int64(r.clock.Now())) }
	stamp()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { stamp() }})
	response, err = r.stream.StreamEvents(ctx, &params, func(_ context.Context, request *http.Request) error {
		request.Header.Set("Accept", "text/event-stream")
		return nil
	})
	return response, time.Duration(sentAt.Load()), err
}

// causeOr returns why ctx was cancelled, if it was, and otherwise err.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// checkStreamAnswer returns why an answer is not a stream of events, or nil.
func checkStreamAnswer(response *http.Response, last streamState, maxStale time.Duration) error {
	contentType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case response.StatusCode == http.StatusUnauthorized, response.StatusCode == http.StatusForbidden:
		return ErrDataPlaneUnauthenticated
	case response.StatusCode == http.StatusTooManyRequests:
		return errTooMany
	case response.StatusCode == http.StatusBadRequest:
		if reason, ok := maxStaleRefusal(response.Body); ok {
			return &tooStaleError{maxStale, reason}
		}
		if last.session != "" || last.position != "" {
			return errCannotResume
		}
		fallthrough
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("stream: the answer has status %d; is %s the data-plane API?", response.StatusCode, response.Request.URL.Host)
	case contentType != "text/event-stream":
		return fmt.Errorf("stream: %w: the answer is not a stream of events", errProtocol)
	}
	return nil
}

// maxStaleRefusal returns the reason why a problem document refuses the declared MaxStale, if it does.
func maxStaleRefusal(body io.Reader) (reason string, ok bool) {
	var problem gen.Problem
	if json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&problem) != nil {
		return "", false
	}
	for _, field := range problem.Errors {
		if field.Field == maxStaleParameter {
			return field.Message, true
		}
	}
	return "", false
}

// session is one connection of the stream. Only the goroutine that reads the stream uses it.
//
// It begins with hello. Its first heartbeat gives a lease (leased), and each further one extends it.
type session struct {
	r       *Resolver
	acks    *acker
	sent    time.Duration // the Clock's time before the request was sent, which stands for the replica's time of hello
	resumes bool          // whether the stream continues from a position

	greeted      bool // whether hello has arrived
	replicaClock int64
	leaseTerm    time.Duration
	leased       bool
	leaseEnd     time.Duration
	urgent       bool // whether someone may wait for the receipt of an event since the last heartbeat
}

// readMessages handles the stream's messages in order until the stream ends, and returns why it ended. It moves the
// silence timer forward with each message.
func (s *session) readMessages(body io.Reader, silence *time.Timer) error {
	messages := messageReader{lines: bufio.NewReaderSize(body, maxMessage)}
	for {
		m, err := messages.next()
		if err != nil {
			return err
		}
		if err := s.handle(&m, messages.id); err != nil {
			return err
		}
		silence.Reset(max(s.leaseTerm*3/2, minSilence))
	}
}

func (s *session) handle(m *gen.StreamMessage, id string) error {
	if s.greeted == (m.Type == typeHello) {
		return errHelloFirst
	}
	switch m.Type {
	case typeHello:
		return s.handleHello(m)
	case typeHeartbeat:
		return s.handleHeartbeat(m, id)
	case typeReset:
		s.r.store.dropAll(false)
		s.urgent = true
	case typeKeyTest:
		s.r.startKeyTest(valueOf(m.TestID))
	default:
		ev := newEvent(m)
		s.r.applyEvent(ev)
		s.r.metrics.events.WithLabelValues(ev.label()).Inc()
		s.urgent = s.urgent || ev.isUrgent()
	}
	return nil
}

// handleHello begins the stream. A stream that does not resume says nothing about past events, so the cache is dropped.
func (s *session) handleHello(m *gen.StreamMessage) error {
	if m.SessionID == nil || m.ClockMs == nil || m.LeaseMs == nil || *m.SessionID == "" {
		return fmt.Errorf("stream: %w: hello lacks a field", errProtocol)
	}
	// Leases count from when the request was sent. If the request waited long, for example for a replica that hung,
	// each lease of this stream would run out before the next heartbeat. Then a new request is better.
	s.leaseTerm = milliseconds(int64(*m.LeaseMs), time.Hour)
	if s.r.clock.Now()-s.sent > s.leaseTerm*6/10 {
		return errLateHello
	}
	s.greeted, s.urgent = true, true // the first acknowledgement shows the control plane that we are here
	s.replicaClock = *m.ClockMs
	s.acks.session = *m.SessionID
	s.r.setAcknowledgeWithin(valueOf(m.AcknowledgeWithinMs))
	if !s.resumes {
		s.r.store.dropAll(false)
	}
	s.r.credential.setAccepted(s.sent)
	s.r.health.streamOpened(s.r.clock.Now()) // before events arrive that may cause fetches
	s.r.leaseTerm.Store(int64(s.leaseTerm))
	s.r.streamMu.Lock()
	defer s.r.streamMu.Unlock()
	state := &s.r.streamState
	if state.failing {
		s.r.log.InfoContext(context.Background(), "the stream of events is open again")
	}
	state.connected, state.failing, state.tooStale, state.refused = true, false, false, false
	state.session, state.replica = *m.SessionID, valueOf(m.ReplicaID)
	return nil
}

// handleHeartbeat extends the lease: every event up to the heartbeat's time has been received and applied.
func (s *session) handleHeartbeat(m *gen.StreamMessage, id string) error {
	if _, err := position.Parse(id); err != nil || m.ClockMs == nil {
		return fmt.Errorf("stream: %w: a heartbeat lacks a position or a time", errProtocol)
	}
	if s.r.credential.isRefused() { // a fetch was refused: a new stream shows which credential is good
		return ErrDataPlaneUnauthenticated
	}
	s.r.limiter.setServing(m, s.r.clock.Now())
	s.r.streamMu.Lock()
	s.r.streamState.position = id
	s.r.streamMu.Unlock()
	// The lease never ends later than a full term from now, whatever the replica's clock does.
	end := min(s.sent+elapsedMs(s.replicaClock, *m.ClockMs), s.r.clock.Now()) + s.leaseTerm
	if !s.leased || end > s.leaseEnd {
		s.leaseEnd = end
		s.r.leaseEnd.Store(int64(end))
	}
	s.leased = true
	if m.AcknowledgeWithinMs != nil {
		s.r.setAcknowledgeWithin(*m.AcknowledgeWithinMs)
	}
	s.acks.position.Store(&id)
	if s.urgent {
		signal(s.acks.urgent)
	}
	s.urgent = false
	return nil
}

// elapsedMs returns the time between two readings of a replica's clock in milliseconds, bounded so that nonsense can't
// overflow.
func elapsedMs(from, to int64) time.Duration {
	const limit = int64(30 * 24 * time.Hour / time.Millisecond)
	if to < from {
		return -time.Duration(min(uint64(from)-uint64(to), uint64(limit))) * time.Millisecond //nolint:gosec // within limit
	}
	return time.Duration(min(uint64(to)-uint64(from), uint64(limit))) * time.Millisecond //nolint:gosec // within limit
}

// messageReader reads the messages of a stream of server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html).
type messageReader struct {
	lines *bufio.Reader
	id    string // of the last message that had one, as the standard says
	data  []byte // of the message that is being read
}

// next returns the next message. It blocks until one has arrived.
func (r *messageReader) next() (m gen.StreamMessage, err error) {
	r.data = r.data[:0]
	for {
		line, err := r.lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return m, fmt.Errorf("stream: %w: a line is too long", errProtocol)
		}
		if err != nil {
			return m, fmt.Errorf("stream: %w", err)
		}
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) > 0 {
			if err := r.readField(line); err != nil {
				return m, err
			}
			continue
		}
		if len(r.data) == 0 {
			continue
		}
		if json.Unmarshal(r.data, &m) != nil || m.Type == "" {
			return m, fmt.Errorf("stream: %w: a message is not a JSON document with a type", errProtocol)
		}
		return m, nil
	}
}

// readField reads a line of a message. Comments and other fields than data and id are ignored.
func (r *messageReader) readField(line []byte) error {
	name, text, _ := bytes.Cut(line, []byte(":"))
	text = bytes.TrimPrefix(text, []byte(" "))
	switch string(name) {
	case "data":
		if len(r.data)+len(text) > maxMessage {
			return fmt.Errorf("stream: %w: a message is too long", errProtocol)
		}
		r.data = append(append(r.data, text...), '\n')
	case "id":
		if bytes.IndexByte(text, 0) < 0 {
			r.id = string(text)
		}
	}
	return nil
}

const (
	ackInterval = 5 * time.Second
	ackRetryMin = 50 * time.Millisecond
	ackRetryMax = time.Second
)

// acker acknowledges the positions of one stream: soon after a revocation, at a random time within the limit that the
// control plane sets, and otherwise every few seconds.
type acker struct {
	r       *Resolver
	session string        // set before the first position
	urgent  chan struct{} // signals a position whose receipt someone may wait for

	position atomic.Pointer[string] // the last position acted on; nil before the first
}

func newAcker(r *Resolver) *acker { return &acker{r: r, urgent: make(chan struct{}, 1)} }

// setAcknowledgeWithin sets the time within which the control plane wants urgent positions to be acknowledged.
func (r *Resolver) setAcknowledgeWithin(ms int) {
	r.acknowledgeWithin.Store(int64(milliseconds(int64(ms), time.Minute)))
}

// run sends acknowledgements until ctx ends. It ends the stream if the control plane no longer knows its session.
func (a *acker) run(ctx context.Context, endStream context.CancelCauseFunc) {
	interval := a.r.cfg.intervals.ack
	retry := &backoff.ExponentialBackOff{InitialInterval: ackRetryMin, Multiplier: 2, MaxInterval: ackRetryMax}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	soon := false // whether the timer is set to an urgent acknowledgement or a retry
	hurry := func() {
		if !soon {
			soon = true
			timer.Reset(randomInSecondHalf(time.Duration(a.r.acknowledgeWithin.Load())))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.urgent:
			hurry()
			continue
		case <-a.r.store.settled:
			hurry()
			continue
		case <-timer.C:
		}
		position := a.position.Load()
		if position == nil {
			timer.Reset(interval)
			continue
		}
		switch a.acknowledge(ctx, *position) {
		case http.StatusNoContent:
			soon = false
			retry.Reset()
			timer.Reset(interval)
		case http.StatusNotFound:
			endStream(errSessionUnknown)
			return
		default:
			soon = true
			timer.Reset(retry.NextBackOff())
		}
	}
}

// acknowledge acknowledges a position, with the counts within it, and returns the status of the answer, or 0 if there was none.
func (a *acker) acknowledge(ctx context.Context, at string) int {
	at = a.r.positionActedOn(at)
	request := gen.AcknowledgeRequest{SessionID: a.session, Position: at}
	var counts []gen.InFlight
	if p, err := position.Parse(at); err == nil {
		counts = a.r.store.inFlightAt(p)
	}
	if a.r.cfg.CountInFlight {
		request.InFlight = counts
	}
	post := func(ctx context.Context) (*http.Response, error) { return a.r.client.Acknowledge(ctx, request) }
	status, _, _ := a.r.send(ctx, post)
	if status == http.StatusBadRequest && len(request.InFlight) > 0 {
		request.InFlight = nil // a replica of an older release does not know this field
		status, _, _ = a.r.send(ctx, post)
	}
	if status == http.StatusNoContent {
		a.r.store.dropInFlight(counts)
	}
	return status
}

// randomInSecondHalf returns a random time in the second half of a limit. In the first half the control plane is still
// sending the event to other data planes.
func randomInSecondHalf(limit time.Duration) time.Duration {
	if limit <= 1 {
		return 0
	}
	return limit/2 + rand.N(limit/2) //nolint:gosec // spreads load, guards nothing
}
