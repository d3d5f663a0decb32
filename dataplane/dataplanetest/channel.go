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

// Connection is what a data plane sent when it opened a stream, and the stream's session.
type Connection struct {
	LastEventID, PreviousSessionID string
	MaxStale                       time.Duration
	SessionID                      string
}

// channel is what the control plane knows of its streams. Whoever uses it holds the mutex.
type channel struct {
	token    string
	limited  bool // whether maxStale holds
	maxStale time.Duration
	silent   bool // no heartbeats
	raw      []string
	base     int // how many changes were forgotten
	sessions map[string]bool

	connections      []Connection
	acknowledgements []gen.AcknowledgeRequest
	reports          []gen.KeyReport
}

// LimitMaxStale refuses streams that declare more from now on, with a 400 that names the limit.
func (cp *ControlPlane) LimitMaxStale(most time.Duration) {
	cp.update(func() { cp.limited, cp.maxStale = true, most })
}

// staleWithin tells whether a stream may declare as much, and what may be.
func (cp *ControlPlane) staleWithin(declared time.Duration) (most time.Duration, ok bool) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return cp.maxStale, !cp.limited || declared <= cp.maxStale
}

// StopHeartbeats stops the heart: changes are told still.
func (cp *ControlPlane) StopHeartbeats() { cp.update(func() { cp.silent = true }) }

// ResumeHeartbeats starts it again.
func (cp *ControlPlane) ResumeHeartbeats() { cp.update(func() { cp.silent = false }) }

// Send writes a text to every stream as it is.
func (cp *ControlPlane) Send(text string) { cp.update(func() { cp.raw = append(cp.raw, text) }) }

// HeartbeatAt sends a heartbeat of another time: one that was under way for long, or of a clock that was set.
func (cp *ControlPlane) HeartbeatAt(clock time.Duration) {
	cp.update(func() { cp.raw = append(cp.raw, cp.heartbeat(clock)) })
}

// Now returns the control plane's time.
func (cp *ControlPlane) Now() time.Duration { return cp.now() }

// ForgetSessions has acknowledgements of the streams that are open answered with 404.
func (cp *ControlPlane) ForgetSessions() { cp.update(func() { clear(cp.sessions) }) }

// Connections returns the streams that were opened.
func (cp *ControlPlane) Connections() []Connection {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return slices.Clone(cp.connections)
}

// Acknowledgements returns what was acknowledged.
func (cp *ControlPlane) Acknowledgements() []gen.AcknowledgeRequest {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return slices.Clone(cp.acknowledgements)
}

// Acknowledged tells whether a transaction was acknowledged.
func (cp *ControlPlane) Acknowledged(tx int64) bool {
	for _, ack := range cp.Acknowledgements() {
		if at, err := position.Parse(ack.Position); err == nil && at.Contains(tx) {
			return true
		}
	}
	return false
}

// Reports returns what was reported of keys.
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

// events streams the changes until the request ends or its credential is no longer good.
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
	// As with the real one, the session outlives its connection for a while: it can be acknowledged still.
}

// stream is one that is open.
type stream struct {
	cp      *ControlPlane
	resumed position.Position
	token   string
	told    int // how many changes were told, forgotten ones included
	raw     int // how many texts were sent
	out     []byte
}

// open greets, and tells what was missed. The caller holds the mutex.
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

// collect takes what there is to send; it returns false if the stream has to end. The caller holds the mutex.
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

// heartbeat returns one that tells everything up to now. The caller holds the mutex.
func (cp *ControlPlane) heartbeat(clock time.Duration) string {
	return fmt.Sprintf("event: heartbeat\nid: %s\ndata: {\"type\":\"heartbeat\",\"clock_ms\":%d}\n\n",
		cp.position(), clock.Milliseconds())
}
