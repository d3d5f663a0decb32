package dataplanetest

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// Token is the data plane's credential that a ControlPlane accepts until SetToken changes it.
const Token = "dp_EXAMPLE_EXAMPLE_EXAMPLE" //nolint:gosec // opens nothing

// Option is a setting of a ControlPlane.
type Option func(*ControlPlane)

// WithClock makes the control plane use a clock of the test.
func WithClock(c *Clock) Option { return func(cp *ControlPlane) { cp.now = c.Now } }

// WithLease sets the length of a lease; the default is a second.
func WithLease(d time.Duration) Option { return func(cp *ControlPlane) { cp.lease = d } }

// WithHeartbeats sets the interval of heartbeats; the default is 20 ms.
func WithHeartbeats(every time.Duration) Option { return func(cp *ControlPlane) { cp.every = every } }

// WithAcknowledgeWithin sets the time within which revocations must be acknowledged; the default is at once.
func WithAcknowledgeWithin(d time.Duration) Option {
	return func(cp *ControlPlane) { cp.ackWithin = d }
}

// ControlPlane is a control plane in memory, on a socket.
type ControlPlane struct {
	t         testing.TB
	now       func() time.Duration
	lease     time.Duration
	every     time.Duration
	ackWithin time.Duration
	address   string

	// server is nil while the control plane is down. lifeMu orders Down and Up.
	lifeMu   sync.Mutex
	server   *http.Server
	listener *listener
	served   chan struct{}

	mu      sync.Mutex
	changed chan struct{} // closed at the next change of anything below
	state
	streams
	faults
}

// NewControlPlane starts a control plane, which ends with the test.
func NewControlPlane(t testing.TB, options ...Option) *ControlPlane {
	t.Helper()
	start := time.Now()
	cp := &ControlPlane{
		t: t, lease: time.Second, every: 20 * time.Millisecond, address: "127.0.0.1:0", changed: make(chan struct{}),
		// Its clock began at another time than the data plane's.
		now:   func() time.Duration { return 731*time.Second + time.Since(start) },
		state: newState(), streams: streams{token: Token, sessions: map[string]bool{}},
	}
	for _, option := range options {
		option(cp)
	}
	cp.Up()
	release, err := reserve(cp.listener)
	require.NoError(t, err)
	t.Cleanup(func() {
		cp.Down()
		release()
	})
	return cp
}

// URL returns the address of the control plane.
func (cp *ControlPlane) URL() string { return "http://" + cp.address }

// SetToken changes the data plane's credential: any other one gets 401, and its streams end.
func (cp *ControlPlane) SetToken(token string) {
	cp.update(func() { cp.token = token })
}

// Down stops the control plane: connections break, and new ones are refused. Its state is kept.
func (cp *ControlPlane) Down() {
	cp.lifeMu.Lock()
	defer cp.lifeMu.Unlock()
	if cp.server == nil {
		return
	}
	_ = cp.server.Close()
	cp.listener.each(func(c *conn) { _ = c.drop() })
	<-cp.served
	cp.server = nil
}

// Up starts the control plane again, at the same address.
func (cp *ControlPlane) Up() {
	cp.t.Helper()
	cp.lifeMu.Lock()
	defer cp.lifeMu.Unlock()
	if cp.server != nil {
		return
	}
	l, err := listen(cp.address)
	require.NoError(cp.t, err)
	cp.listener, cp.address = l, l.Addr().String()
	server, served := &http.Server{Handler: cp.routes(), ReadHeaderTimeout: 5 * time.Second}, make(chan struct{})
	cp.server, cp.served = server, served
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
}

// Cut breaks every open connection; new ones are accepted.
func (cp *ControlPlane) Cut() { cp.eachConn(func(c *conn) { _ = c.drop() }) }

// HalfOpen makes every open connection go silent without being closed, as when a link or a machine dies; new ones work.
func (cp *ControlPlane) HalfOpen() { cp.eachConn(func(c *conn) { c.frozen.Store(true) }) }

func (cp *ControlPlane) eachConn(do func(*conn)) {
	cp.lifeMu.Lock()
	defer cp.lifeMu.Unlock()
	cp.listener.each(do)
}

func (cp *ControlPlane) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/fetch", cp.guarded(Fetch, cp.fetch))
	mux.HandleFunc("POST /v1/reports", cp.guarded(Report, cp.report))
	mux.HandleFunc("GET /v1/events", cp.guarded(Events, cp.events))
	mux.HandleFunc("POST /v1/acknowledgements", cp.guarded(Acknowledge, cp.acknowledge))
	return mux
}

// update changes the state and wakes those that wait for changes.
func (cp *ControlPlane) update(change func()) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	change()
	close(cp.changed)
	cp.changed = make(chan struct{})
}

// await waits until a condition, which is called with mu held, returns true. It returns false if ctx ends first.
func (cp *ControlPlane) await(ctx context.Context, condition func() bool) bool {
	for {
		cp.mu.Lock()
		ok, changed := condition(), cp.changed
		cp.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// refuse answers with a problem document.
func refuse(w http.ResponseWriter, status int, problem, code string, fields ...gen.FieldError) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(gen.Problem{
		Type: "/problems/" + problem, Title: http.StatusText(status), Status: status, Code: code,
		Detail: "The control plane of the test refuses this.", RequestID: "00000000000000000000000000",
		Errors: fields,
	})
}

// decode reads a body as strictly as the real control plane does.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	decoder.DisallowUnknownFields()
	if r.Header.Get("Content-Type") != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "unsupported-media-type", "invalid_argument")
		return false
	}
	if err := decoder.Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, "invalid-argument", "invalid_argument")
		return false
	}
	return true
}
