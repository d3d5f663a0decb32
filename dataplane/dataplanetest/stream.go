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

// heartbeatInterval is the time between two heartbeats.
const heartbeatInterval = 20 * time.Millisecond

// Connection is what a data plane sent to open a stream, and the stream's session.
type Connection struct {
	LastEventID, PreviousSessionID string
	MaxStale                       time.Duration
	SessionID                      string
}

// streams is the control plane's state of its streams. Guarded by mu.
type streams struct {
	maxStale time.Duration
	silent   bool // no heartbeats
	sessions map[string]bool

	connections      []Connection
	acknowledgements []gen.AcknowledgeRequest
	reports          []gen.KeyReport
	usage            []gen.UsageReport
	losesUsage       bool // answers to batches of counts are lost
	refusesInFlight  bool // acknowledgements with counts get 400
}

// RefuseInFlight refuses acknowledgements that say how many requests were in flight, as older releases do.
func (cp *ControlPlane) RefuseInFlight() { cp.update(func() { cp.refusesInFlight = true }) }

// LimitMaxStale limits max_stale_ms. A stream that declares more gets a 400 that names the limit.
func (cp *ControlPlane) LimitMaxStale(most time.Duration) { cp.update(func() { cp.maxStale = most }) }

// StopHeartbeats stops heartbeats; changes are still announced.
func (cp *ControlPlane) StopHeartbeats() { cp.update(func() { cp.silent = true }) }

// ResumeHeartbeats sends heartbeats again.
func (cp *ControlPlane) ResumeHeartbeats() { cp.update(func() { cp.silent = false }) }

// Send writes a text to every stream unchanged.
func (cp *ControlPlane) Send(text string) {
	cp.update(func() { cp.log = append(cp.log, change{text: []byte(text)}) })
}

// HeartbeatAt sends a heartbeat with the given time, as if the heartbeat were delayed or the clock had been set.
func (cp *ControlPlane) HeartbeatAt(clock time.Duration) {
	cp.update(func() { cp.log = append(cp.log, change{text: cp.heartbeat(clock)}) })
}

// ForgetSessions makes acknowledgements of the open streams get 404.
func (cp *ControlPlane) ForgetSessions() { cp.update(func() { clear(cp.sessions) }) }

// Connections returns the streams opened so far.
func (cp *ControlPlane) Connections() []Connection {
	return read(cp, func() []Connection { return slices.Clone(cp.connections) })
}

// Acknowledgements returns the acknowledgements so far.
func (cp *ControlPlane) Acknowledgements() []gen.AcknowledgeRequest {
	return read(cp, func() []gen.AcknowledgeRequest { return slices.Clone(cp.acknowledgements) })
}

// Acknowledged reports whether a transaction was acknowledged.
func (cp *ControlPlane) Acknowledged(tx int64) bool {
	return slices.ContainsFunc(cp.Acknowledgements(), func(ack gen.AcknowledgeRequest) bool {
		at, err := position.Parse(ack.Position)
		return err == nil && at.Contains(tx)
	})
}

// Reports returns the reports of keys so far.
func (cp *ControlPlane) Reports() []gen.KeyReport {
	return read(cp, func() []gen.KeyReport { return slices.Clone(cp.reports) })
}

// Usage returns the batches of counts so far, repeated ones included.
func (cp *ControlPlane) Usage() []gen.UsageReport {
	return read(cp, func() []gen.UsageReport { return slices.Clone(cp.usage) })
}

// LoseUsageAnswers sets whether the answers to batches of counts are lost. The batches themselves arrive.
func (cp *ControlPlane) LoseUsageAnswers(lose bool) { cp.update(func() { cp.losesUsage = lose }) }

func (cp *ControlPlane) acknowledge(w http.ResponseWriter, r *http.Request) {
	var request gen.AcknowledgeRequest
	if !decode(w, r, &request) {
		return
	}
	if request.InFlight != nil && read(cp, func() bool { return cp.refusesInFlight }) {
		invalid.send(w)
		return
	}
	known := false
	cp.update(func() {
		if known = cp.sessions[request.SessionID]; known {
			cp.acknowledgements = append(cp.acknowledgements, request)
		}
	})
	if !known {
		refusal{status: http.StatusNotFound, problem: "not-found", code: "not_found"}.send(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (cp *ControlPlane) report(w http.ResponseWriter, r *http.Request) {
	var request gen.ReportRequest
	if !decode(w, r, &request) {
		return
	}
	cp.update(func() { cp.reports = append(cp.reports, request.Keys...) })
	w.WriteHeader(http.StatusNoContent)
}

func (cp *ControlPlane) countUsage(w http.ResponseWriter, r *http.Request) {
	var request gen.UsageReport
	if !decode(w, r, &request) {
		return
	}
	var lost bool
	cp.update(func() { cp.usage, lost = append(cp.usage, request), cp.losesUsage })
	if lost {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusNoContent)
}

// events streams the changes until the request ends or its credential is no longer valid. As with the real control
// plane, the session outlives its connection: a data plane can still send acknowledgements for it.
func (cp *ControlPlane) events(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	stale, _ := strconv.Atoi(query.Get("max_stale_ms"))
	c := Connection{
		LastEventID: r.Header.Get("Last-Event-ID"), PreviousSessionID: query.Get("previous_session_id"),
		MaxStale: time.Duration(stale) * time.Millisecond,
	}
	if most := read(cp, func() time.Duration { return cp.maxStale }); c.MaxStale > most {
		refused := invalid
		refused.fields = []gen.FieldError{{
			Field: "max_stale_ms", Message: fmt.Sprintf("must be at most %d, the limit of this service", most.Milliseconds()),
		}}
		refused.send(w)
		return
	}
	var token string
	var out []byte // the bytes to write
	var next int   // the first element of the log that has not been written
	cp.update(func() {
		c.SessionID = cp.mint()
		cp.connections = append(cp.connections, c)
		cp.sessions[c.SessionID] = true
		token, out, next = cp.token, cp.opening(c), len(cp.log)
	})
	w.Header().Set("Content-Type", "text/event-stream")
	beat := time.NewTicker(heartbeatInterval)
	defer beat.Stop()
	for due := true; ; {
		cp.mu.Lock()
		for ; next < len(cp.log); next++ {
			out = append(out, cp.log[next].text...)
			due = due || cp.log[next].tx != 0
		}
		if due && !cp.silent {
			out = append(out, cp.heartbeat(cp.Now())...)
		}
		ended, changed := cp.token != token, cp.changed
		cp.mu.Unlock()
		if _, err := w.Write(out); err != nil || http.NewResponseController(w).Flush() != nil || ended {
			return
		}
		out, due = out[:0], false
		select {
		case <-changed:
		case <-beat.C:
			due = true
		case <-r.Context().Done():
			return
		}
	}
}

// opening returns hello, and the changes since the position that a stream resumes from. The caller holds mu.
func (cp *ControlPlane) opening(c Connection) []byte {
	hello := frame(gen.StreamMessage{
		Type: "hello", SessionID: &c.SessionID, ReplicaID: new(fmt.Sprintf("%026d", 7)), ClockMs: new(cp.Now().Milliseconds()),
		LeaseMs: new(int(cp.Lease.Milliseconds())), AcknowledgeWithinMs: new(int(cp.AcknowledgeWithin.Milliseconds())),
	})
	resumed, err := position.Parse(c.LastEventID)
	if err != nil {
		return hello
	}
	out := hello
	for i, change := range cp.log {
		switch {
		case change.tx == 0 || resumed.Contains(change.tx):
		case i < cp.forgotten:
			return append(hello, frame(gen.StreamMessage{Type: "reset"})...)
		default:
			out = append(out, change.text...)
		}
	}
	return out
}

// frame returns a message as a server-sent event.
func frame(m gen.StreamMessage) []byte {
	document, _ := json.Marshal(m) // cannot fail: it has only texts and numbers
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", m.Type, document)
}

// heartbeat returns a heartbeat with the present position. The caller holds mu.
func (cp *ControlPlane) heartbeat(clock time.Duration) []byte {
	return fmt.Appendf(nil, "event: heartbeat\nid: %s\ndata: {\"type\":\"heartbeat\",\"clock_ms\":%d}\n\n", cp.position(), clock.Milliseconds())
}
