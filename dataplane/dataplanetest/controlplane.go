// Package dataplanetest has a control plane in memory to test data planes against, over a real socket, and the environment
// that the tests of the library, the gateway and extauthz share.
//
// The control plane follows spec/dataplane.yaml: it has positions with transactions that commit late, as_of, reset, and
// refusals with their problem documents. It fails on demand: it can hang, answer nonsense, go down, cut connections,
// hold back answers, and send no heartbeats. Its time can be a Clock that stands still until a test moves it.
//
// Only tests may import it.
package dataplanetest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/agentrouter/aikeys/dataplane"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// Token is the data plane's credential that a ControlPlane accepts until SetToken changes it.
const Token = "dp_EXAMPLE_EXAMPLE_EXAMPLE" //nolint:gosec // opens nothing

// ControlPlane is a control plane in memory, on a socket.
type ControlPlane struct {
	// Now is the control plane's clock, Lease the length of a lease, and AcknowledgeWithin the time within which
	// revocations must be acknowledged. Tests change them before the first stream.
	Now                      func() time.Duration
	Lease, AcknowledgeWithin time.Duration

	t      testing.TB
	server *httptest.Server

	// mu guards everything below.
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	down    bool
	token   string
	faults  map[Operation]Fault
	counts  map[Operation]int
	before  *Hold // holds fetches before they read the state
	after   *Hold // holds fetches that have their answers
	state
	streams
}

// NewControlPlane starts a control plane with a lease of one second. It ends with the test.
func NewControlPlane(t testing.TB) *ControlPlane {
	t.Helper()
	start := time.Now()
	cp := &ControlPlane{
		// The control plane's clock starts at another time than the data plane's.
		Now:   func() time.Duration { return 731*time.Second + time.Since(start) },
		Lease: time.Second,
		t:     t, changed: make(chan struct{}), token: Token, faults: map[Operation]Fault{}, counts: map[Operation]int{},
		state:   state{nextTx: 5000, credentials: map[string]*credential{}, members: map[[2]string]bool{}},
		streams: streams{maxStale: time.Hour, sessions: map[string]bool{}},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/fetch", cp.guarded(Fetch, cp.fetch))
	mux.HandleFunc("POST /v1/reports", cp.guarded(Report, cp.report))
	mux.HandleFunc("POST /v1/usage", cp.guarded(Usage, cp.countUsage))
	mux.HandleFunc("GET /v1/events", cp.guarded(Events, cp.events))
	mux.HandleFunc("POST /v1/acknowledgements", cp.guarded(Acknowledge, cp.acknowledge))
	cp.server = httptest.NewServer(mux)
	t.Cleanup(cp.Close)
	return cp
}

// URL returns the address of the control plane.
func (cp *ControlPlane) URL() string { return cp.server.URL }

// Config returns the configuration of a Resolver of this control plane.
func (cp *ControlPlane) Config() dataplane.Config {
	return dataplane.Config{ControlPlane: cp.URL(), Token: func() string { return Token }}
}

// Close ends the control plane.
func (cp *ControlPlane) Close() {
	cp.Down()
	cp.server.Close()
}

// Down breaks all connections, and each new one at its first request. The state is kept.
func (cp *ControlPlane) Down() {
	cp.update(func() { cp.down = true })
	cp.Cut()
}

// Up makes the control plane answer again.
func (cp *ControlPlane) Up() { cp.update(func() { cp.down = false }) }

// Cut breaks every open connection; new ones are accepted.
func (cp *ControlPlane) Cut() { cp.server.CloseClientConnections() }

// SetToken changes the data plane's credential: any other credential gets 401, and its streams end.
func (cp *ControlPlane) SetToken(token string) { cp.update(func() { cp.token = token }) }

// update changes the state and wakes the streams.
func (cp *ControlPlane) update(change func()) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	change()
	close(cp.changed)
	cp.changed = make(chan struct{})
}

// read calls look with mu held, and returns its result.
func read[T any](cp *ControlPlane, look func() T) T {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return look()
}

// Operation is an operation of the control plane's API.
type Operation int

// The operations.
const (
	Fetch Operation = iota
	Report
	Usage
	Events
	Acknowledge
)

// Fault is a way to fail.
type Fault int

// The ways to fail. Open streams continue; Cut ends them.
const (
	Healthy           Fault = iota
	Hanging                 // takes the request and never answers
	Garbage                 // answers 200 with nonsense
	InternalError           // answers 500
	Unavailable             // answers 503
	TooManyRequests         // answers 429
	IssuerUnavailable       // answers 503, because the caller's session token can't be checked
	CustomerNotServed       // answers 403
	UserKeyRequired         // answers 404
	Invalid                 // answers 400
	Unauthenticated         // answers 401
)

// refusal is a refusal with the fields of its problem document.
type refusal struct {
	status        int
	problem, code string
	fields        []gen.FieldError
}

var refusals = map[Fault]refusal{
	InternalError:     {status: http.StatusInternalServerError, problem: "internal", code: "internal"},
	Unavailable:       {status: http.StatusServiceUnavailable, problem: "unavailable", code: "unavailable"},
	TooManyRequests:   {status: http.StatusTooManyRequests, problem: "resource-exhausted", code: "resource_exhausted"},
	IssuerUnavailable: {status: http.StatusServiceUnavailable, problem: "issuer-unavailable", code: "unavailable"},
	CustomerNotServed: {status: http.StatusForbidden, problem: "customer-not-served", code: "permission_denied"},
	UserKeyRequired:   {status: http.StatusNotFound, problem: "user-key-required", code: "not_found"},
	Invalid:           invalid,
	Unauthenticated:   {status: http.StatusUnauthorized, problem: "unauthenticated", code: "unauthenticated"},
}

// send answers with the refusal's problem document.
func (f refusal) send(w http.ResponseWriter) {
	switch f.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="aikeys"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(gen.Problem{
		Type: "/problems/" + f.problem, Title: http.StatusText(f.status), Status: f.status, Code: f.code,
		Detail: "The control plane of the test refuses this.", RequestID: "00000000000000000000000000", Errors: f.fields,
	})
}

// SetFault makes operations fail from now on. Without operations, it applies to all of them. Healthy ends a fault.
func (cp *ControlPlane) SetFault(fault Fault, operations ...Operation) {
	if len(operations) == 0 {
		operations = []Operation{Fetch, Report, Usage, Events, Acknowledge}
	}
	cp.update(func() {
		for _, op := range operations {
			cp.faults[op] = fault
		}
	})
}

// Count returns the number of requests of an operation, including failed ones.
func (cp *ControlPlane) Count(op Operation) int { return read(cp, func() int { return cp.counts[op] }) }

// guarded applies the fault of an operation, and refuses requests without the credential.
func (cp *ControlPlane) guarded(op Operation, handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var down bool
		var fault Fault
		var token string
		cp.update(func() {
			if down = cp.down; !down {
				cp.counts[op]++
			}
			fault, token = cp.faults[op], cp.token
		})
		refused, refuses := refusals[fault]
		switch {
		case down:
			panic(http.ErrAbortHandler) // closes the connection
		case refuses:
			refused.send(w)
		case fault == Hanging:
			// The server notices that the client has gone only once the body is read.
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		case fault == Garbage:
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {\"secret\": 7 <html>\n\n")
		case r.Header.Get("Authorization") != "Bearer "+token:
			refusal{status: http.StatusUnauthorized, problem: "unauthenticated", code: "unauthenticated"}.send(w)
		default:
			handle(w, r)
		}
	}
}

// decode reads a body.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if decoder.Decode(into) != nil {
		invalid.send(w)
		return false
	}
	return true
}

var invalid = refusal{status: http.StatusBadRequest, problem: "invalid-argument", code: "invalid_argument"}

// Hold holds fetches until it is released.
type Hold struct {
	cp       *ControlPlane
	arrived  chan struct{} // receives an element for each fetch that is held
	released chan struct{} // closed by Release
}

func (cp *ControlPlane) newHold(place **Hold) *Hold {
	h := &Hold{cp, make(chan struct{}, 1000), make(chan struct{})}
	cp.update(func() { *place = h })
	return h
}

// HoldRequests holds further fetches before they read the state: their answers include changes that happen while they
// wait.
func (cp *ControlPlane) HoldRequests() *Hold { return cp.newHold(&cp.before) }

// HoldAnswers holds further fetches after they have read the state: their answers do not include changes that happen
// while they wait. A previous Hold keeps the fetches that it already holds.
func (cp *ControlPlane) HoldAnswers() *Hold { return cp.newHold(&cp.after) }

// Wait waits until another fetch is held.
func (h *Hold) Wait() {
	h.cp.t.Helper()
	select {
	case <-h.arrived:
	case <-time.After(eventTimeout):
		h.cp.t.Fatal("no fetch has come to the hold")
	}
}

// Release releases the fetches, and holds no later ones.
func (h *Hold) Release() {
	h.cp.update(func() {
		for _, place := range []**Hold{&h.cp.before, &h.cp.after} {
			if *place == h {
				*place = nil
			}
		}
	})
	close(h.released)
}

// keep waits at a hold, if there is one, and reports whether the request continues.
func (h *Hold) keep(ctx context.Context) bool {
	if h == nil {
		return true
	}
	h.arrived <- struct{}{}
	select {
	case <-h.released:
		return true
	case <-ctx.Done():
		return false
	}
}
