package dataplanetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
)

// Connection is what a data plane sent to open a stream, and the stream's session.
type Connection struct {
	LastEventID, PreviousSessionID string
	MaxStale                       time.Duration
	SessionID                      string
}

// streams is the control plane's state of its streams. Guarded by mu.
type streams struct {
	token    string
	limited  bool // whether maxStale applies
	maxStale time.Duration
	silent   bool // no heartbeats
	raw      []string
	base     int // the number of changes forgotten
	sessions map[string]bool

	connections      []Connection
	acknowledgements []gen.AcknowledgeRequest
	reports          []gen.KeyReport
}

// LimitMaxStale refuses streams that declare more, with a 400 that names the limit.
func (cp *ControlPlane) LimitMaxStale(most time.Duration) {
	cp.update(func() { cp.limited, cp.maxStale = true, most })
}

// staleWithin returns the limit, and reports whether a stream may declare as much.
func (cp *ControlPlane) staleWithin(declared time.Duration) (most time.Duration, ok bool) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return cp.maxStale, !cp.limited || declared <= cp.maxStale
}

// StopHeartbeats stops heartbeats; changes are still announced.
func (cp *ControlPlane) StopHeartbeats() { cp.update(func() { cp.silent = true }) }

// ResumeHeartbeats sends heartbeats again.
func (cp *ControlPlane) ResumeHeartbeats() { cp.update(func() { cp.silent = false }) }

// Send writes a text to every stream unchanged.
func (cp *ControlPlane) Send(text string) { cp.update(func() { cp.raw = append(cp.raw, text) }) }

// HeartbeatAt sends a heartbeat with another time, as if it were delayed or the clock had been set.
func (cp *ControlPlane) HeartbeatAt(clock time.Duration) {
	cp.update(func() { cp.raw = append(cp.raw, cp.heartbeat(clock)) })
}

// Now returns the control plane's time.
func (cp *ControlPlane) Now() time.Duration { return cp.now() }

// ForgetSessions makes acknowledgements of the open streams get 404.
func (cp *ControlPlane) ForgetSessions() { cp.update(func() { clear(cp.sessions) }) }

// Connections returns the streams opened so far.
func (cp *ControlPlane) Connections() []Connection {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return slices.Clone(cp.connections)
}

// Acknowledgements returns the acknowledgements so far.
func (cp *ControlPlane) Acknowledgements() []gen.AcknowledgeRequest {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return slices.Clone(cp.acknowledgements)
}

// Acknowledged reports whether a transaction was acknowledged.
func (cp *ControlPlane) Acknowledged(tx int64) bool {
	for _, ack := range cp.Acknowledgements() {
		if at, err := position.Parse(ack.Position); err == nil && at.Contains(tx) {
			return true
		}
	}
	return false
}

// Reports returns the reports of keys so far.
func (cp *ControlPlane) Reports() []gen.KeyReport {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return slices.Clone(cp.reports)
}

func (cp *ControlPlane) acknowledge(w http.ResponseWriter, r *http.Request) {
	var request gen.AcknowledgeRequest
	if !decode(w, r, &request) {
		return
	}
	if _, err := position.Parse(request.Position); err != nil {
		refuse(w, http.StatusBadRequest, "invalid-argument", "invalid_argument")
		return
	}
	known := false
	cp.update(func() {
		if known = cp.sessions[request.SessionID]; known {
			cp.acknowledgements = append(cp.acknowledgements, request)
		}
	})
	if !known {
		refuse(w, http.StatusNotFound, "not-found", "not_found")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (cp *ControlPlane) report(w http.ResponseWriter, r *http.Request) {
	var request gen.ReportRequest
	if !decode(w, r, &request) {
		return
	}
	if len(request.Keys) == 0 || len(request.Keys) > 500 {
		refuse(w, http.StatusBadRequest, "invalid-argument", "invalid_argument")
		return
	}
	cp.update(func() { cp.reports = append(cp.reports, request.Keys...) })
	w.WriteHeader(http.StatusNoContent)
}

// events streams the changes until the request ends or its credential is no longer valid.
func (cp *ControlPlane) events(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	stale, _ := strconv.Atoi(query.Get("max_stale_ms"))
	c := Connection{
		LastEventID: r.Header.Get("Last-Event-ID"), PreviousSessionID: query.Get("previous_session_id"),
		MaxStale: time.Duration(stale) * time.Millisecond,
	}
	if most, ok := cp.staleWithin(c.MaxStale); !ok {
		refuse(w, http.StatusBadRequest, "invalid-argument", "invalid_argument", gen.FieldError{
			Field: "max_stale_ms", Message: fmt.Sprintf("must be at most %d, the limit of this service", most.Milliseconds()),
		})
		return
	}
	s := &stream{cp: cp}
	var err error
	if c.LastEventID != "" {
		if s.resumed, err = position.Parse(c.LastEventID); err != nil {
			refuse(w, http.StatusBadRequest, "invalid-argument", "invalid_argument")
			return
		}
	}
	cp.update(func() {
		c.SessionID = cp.mint()
		cp.connections = append(cp.connections, c)
		cp.sessions[c.SessionID] = true
		s.open(c)
	})
	w.Header().Set("Content-Type", "text/event-stream")
	s.run(w, r)
	// As with the real one, the session outlives its connection and can still be acknowledged.
}

// stream is an open stream.
type stream struct {
	cp      *ControlPlane
	resumed position.Position
	token   string
	told    int // the number of changes sent, including forgotten ones
	raw     int // the number of texts sent
	out     []byte
}

// open sends hello and the changes since the stream's position. The caller holds mu.
func (s *stream) open(c Connection) {
	cp := s.cp
	s.token, s.raw = cp.token, len(cp.raw)
	clock, lease, within := cp.now().Milliseconds(), int(cp.lease.Milliseconds()), int(cp.ackWithin.Milliseconds())
	replica := fmt.Sprintf("%026d", 7)
	s.write(gen.StreamMessage{
		Type: "hello", SessionID: &c.SessionID, ReplicaID: &replica, ClockMs: &clock, LeaseMs: &lease,
		AcknowledgeWithinMs: &within,
	})
	s.told = cp.base + len(cp.history)
	if c.LastEventID == "" {
		return
	}
	if slices.ContainsFunc(cp.forgotten, func(tx int64) bool { return !s.resumed.Contains(tx) }) {
		s.write(gen.StreamMessage{Type: "reset"})
		return
	}
	for _, m := range cp.history {
		if !s.resumed.Contains(*m.Tx) {
			s.write(m)
		}
	}
}

func (s *stream) run(w http.ResponseWriter, r *http.Request) {
	beat := time.NewTicker(s.cp.every)
	defer beat.Stop()
	due := true
	for {
		s.cp.mu.Lock()
		alive, changed := s.collect(due), s.cp.changed
		s.cp.mu.Unlock()
		if len(s.out) > 0 {
			if _, err := w.Write(s.out); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			s.out = s.out[:0]
		}
		if !alive {
			return
		}
		select {
		case <-changed:
			due = false
		case <-beat.C:
			due = true
		case <-r.Context().Done():
			return
		}
	}
}

// collect gathers what is to be sent, and reports whether the stream continues. The caller holds mu.
func (s *stream) collect(due bool) bool {
	cp := s.cp
	for ; s.raw < len(cp.raw); s.raw++ {
		s.out = append(s.out, cp.raw[s.raw]...)
	}
	for s.told = max(s.told, cp.base); s.told < cp.base+len(cp.history); s.told++ {
		s.write(cp.history[s.told-cp.base])
		due = true
	}
	if due && !cp.silent {
		s.out = append(s.out, cp.heartbeat(cp.now())...)
	}
	return s.token == cp.token
}

func (s *stream) write(m gen.StreamMessage) {
	document, _ := json.Marshal(m) // cannot fail: it has only texts and numbers
	s.out = fmt.Appendf(s.out, "event: %s\ndata: %s\n\n", m.Type, document)
}

// heartbeat returns a heartbeat with the present position. The caller holds mu.
func (cp *ControlPlane) heartbeat(clock time.Duration) string {
	return fmt.Sprintf("event: heartbeat\nid: %s\ndata: {\"type\":\"heartbeat\",\"clock_ms\":%d}\n\n",
		cp.position(), clock.Milliseconds())
}
