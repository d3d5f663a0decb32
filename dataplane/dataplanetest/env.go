package dataplanetest

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
)

// eventTimeout ends the wait of a test that has already failed.
const eventTimeout = 10 * time.Second

// Eventually waits until a condition holds.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, eventTimeout, time.Millisecond, what)
}

// Env has a control plane whose Clock stands still, and a Resolver that has the same clock and a lease.
type Env struct {
	*ControlPlane
	Clock *Clock
	R     *dataplane.Resolver
	t     testing.TB
}

// NewEnv starts a control plane and a resolver, which end with the test.
func NewEnv(t testing.TB, change ...func(*dataplane.Config)) *Env {
	t.Helper()
	clock, cp := new(Clock), NewControlPlane(t)
	cp.Now = clock.Now
	r := cp.Resolver(t, append(change, func(cfg *dataplane.Config) { cfg.Clock = clock })...)
	return &Env{cp, clock, r, t}
}

// Clock is a dataplane.Clock that stands still until it is moved.
type Clock struct{ passed atomic.Int64 }

// Now returns the clock's time.
func (c *Clock) Now() time.Duration { return time.Hour + time.Duration(c.passed.Load()) }

// Advance moves the clock forward.
func (c *Clock) Advance(d time.Duration) { c.passed.Add(int64(d)) }

// Resolver returns a Resolver that has a lease and runs until the test ends. The functions may change its
// configuration.
func (cp *ControlPlane) Resolver(t testing.TB, change ...func(*dataplane.Config)) *dataplane.Resolver {
	t.Helper()
	cfg := cp.Config()
	for _, c := range change {
		c(&cfg)
	}
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	Run(t, r)
	Eventually(t, "a lease", func() bool { return r.Status().Leased })
	return r
}

// Run runs a Resolver until stop or the end of the test.
func Run(t testing.TB, r *dataplane.Resolver) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(eventTimeout):
			t.Error("Run does not return")
		}
	})
	t.Cleanup(stop)
	return stop
}

// Await waits until a Resolver has acted on a transaction.
func Await(t testing.TB, r *dataplane.Resolver, tx int64) {
	t.Helper()
	Eventually(t, "the transaction arrives", func() bool {
		at, err := position.Parse(r.Status().Position)
		return err == nil && at.Contains(tx)
	})
}

// Serves asserts that a request resolves to a key.
func (e *Env) Serves(req dataplane.Request, keyID string) {
	e.t.Helper()
	key, err := e.R.Resolve(e.t.Context(), req)
	require.NoError(e.t, err)
	require.Equal(e.t, keyID, key.ID)
}

// Refuses asserts that a request resolves to an error.
func (e *Env) Refuses(req dataplane.Request, target error) {
	e.t.Helper()
	key, err := e.R.Resolve(e.t.Context(), req)
	require.ErrorIs(e.t, err, target)
	require.Nil(e.t, key)
}

// Fetches asserts the number of fetches that an action causes.
func (e *Env) Fetches(n int, action func()) {
	e.t.Helper()
	before := e.Count(Fetch)
	action()
	require.Equal(e.t, n, e.Count(Fetch)-before, "fetches")
}

// Resolved is the result of Resolve.
type Resolved struct {
	Key *dataplane.Key
	Err error
}

// ResolveAsync resolves a request in the background.
func (e *Env) ResolveAsync(ctx context.Context, req dataplane.Request) <-chan Resolved {
	result := make(chan Resolved, 1)
	go func() {
		key, err := e.R.Resolve(ctx, req)
		result <- Resolved{key, err}
	}()
	return result
}

// AwaitTx waits until the resolver has acted on a transaction.
func (e *Env) AwaitTx(tx int64) {
	e.t.Helper()
	Await(e.t, e.R, tx)
}

// Sync waits until the resolver has acted on everything up to now.
func (e *Env) Sync() {
	e.t.Helper()
	e.AwaitTx(e.Publish(Unrelated()))
}

// Register registers a key and waits until the resolver has acted on the event.
func (e *Env) Register(k Key) (id string) {
	e.t.Helper()
	id = e.RegisterKey(k)
	e.Sync()
	return id
}

// LoseLease stops the heartbeats and lets the lease run out.
func (e *Env) LoseLease() {
	e.t.Helper()
	e.StopHeartbeats()
	e.Clock.Advance(5 * time.Second)
	require.False(e.t, e.R.Status().Leased)
}

// AwaitLease waits for a heartbeat with the clock's present time, which gives a whole lease.
func (e *Env) AwaitLease() {
	e.t.Helper()
	Eventually(e.t, "a whole lease", func() bool { return e.R.Status().LeaseRemaining == time.Second })
}

// AwaitDisconnect waits until the resolver has noticed the end of its stream.
func (e *Env) AwaitDisconnect() {
	e.t.Helper()
	Eventually(e.t, "the end of the stream", func() bool { return !e.R.Status().Connected })
}

// AwaitStream waits until n streams have been opened, and the last one has had its hello and a heartbeat.
func (e *Env) AwaitStream(n int) Connection {
	e.t.Helper()
	Eventually(e.t, "a stream", func() bool { return len(e.Connections()) >= n })
	c := e.Connections()[n-1]
	Eventually(e.t, "its hello", func() bool { return e.R.Status().SessionID == c.SessionID })
	e.Sync()
	return c
}

// Unrelated is a change that touches nothing of the customer acme.
func Unrelated() gen.StreamMessage {
	return gen.StreamMessage{Type: "policy.set", CustomerID: new("other"), ProjectID: new("other")}
}

// NewKeyID is the id of every key that NewKey returns.
const NewKeyID = "byok_00000000000000000000000001"

// NewKey returns a key that a resolver has fetched; there is no other way to make one.
func NewKey(t testing.TB, provider string, style dataplane.AuthStyle, baseURL, secret string) *dataplane.Key {
	t.Helper()
	cp := NewControlPlane(t)
	cp.RegisterKey(Key{Provider: provider, AuthStyle: string(style), BaseURL: baseURL, Secret: secret})
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	key, err := r.Resolve(t.Context(), dataplane.ForUser("acme", "chat", "", provider))
	require.NoError(t, err)
	return key
}

// FakeResolver resolves requests with a function, and records how it is used. It is a gateway.Resolver.
type FakeResolver struct {
	limits *dataplane.Resolver // counts against the limits of keys
	bodies chan string         // the bodies of the first thousand reported answers

	mu      sync.Mutex
	resolve func(dataplane.Request) (*dataplane.Key, error) // guarded by mu
	calls   Calls                                           // guarded by mu
	watches map[*func(certain bool)]bool                    // guarded by mu
}

// Calls are the calls of a FakeResolver so far.
type Calls struct {
	Requests  []dataplane.Request
	Reports   []int           // the statuses that were reported
	Uses      []bool          // one for each use that was counted without a report: whether it was refused
	Asides    []time.Duration // how long keys were to be set aside
	Exposures int             // the number of reports that a key was sent back
	Watches   int             // the number of uses in progress
}

// NewFakeResolver returns a resolver that answers as the function does.
func NewFakeResolver(resolve func(dataplane.Request) (*dataplane.Key, error)) *FakeResolver {
	limits, err := dataplane.New(dataplane.Config{ControlPlane: "http://127.0.0.1:1", Token: func() string { return Token }})
	if err != nil {
		panic(err)
	}
	return &FakeResolver{limits: limits, resolve: resolve, bodies: make(chan string, 1000), watches: map[*func(bool)]bool{}}
}

// Serving returns a resolver that serves the caller with this credential, and refuses others.
func Serving(credential string, key *dataplane.Key) *FakeResolver {
	return NewFakeResolver(func(request dataplane.Request) (*dataplane.Key, error) {
		if request.Credential != credential {
			return nil, dataplane.ErrCallerUnauthenticated
		}
		return key, nil
	})
}

// Refusing returns a resolver that returns an error.
func Refusing(err error) *FakeResolver {
	return NewFakeResolver(func(dataplane.Request) (*dataplane.Key, error) { return nil, err })
}

// update changes what the resolver has recorded.
func (f *FakeResolver) update(change func(calls *Calls)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.calls)
}

// Calls returns the calls so far.
func (f *FakeResolver) Calls() (calls Calls) {
	f.update(func(c *Calls) {
		calls = Calls{
			slices.Clone(c.Requests), slices.Clone(c.Reports), slices.Clone(c.Uses), slices.Clone(c.Asides), c.Exposures, len(f.watches),
		}
	})
	return calls
}

// Resolve implements gateway.Resolver.
func (f *FakeResolver) Resolve(_ context.Context, request dataplane.Request) (*dataplane.Key, error) {
	var resolve func(dataplane.Request) (*dataplane.Key, error)
	f.update(func(c *Calls) { c.Requests, resolve = append(c.Requests, request), f.resolve })
	return resolve(request)
}

// Refuse makes the resolver return an error from now on.
func (f *FakeResolver) Refuse(err error) {
	f.update(func(*Calls) { f.resolve = Refusing(err).resolve })
}

// ReportAnswer implements gateway.Resolver.
func (f *FakeResolver) ReportAnswer(_ *dataplane.Key, status int, body []byte) {
	f.update(func(c *Calls) { c.Reports = append(c.Reports, status) })
	select {
	case f.bodies <- string(body):
	default:
	}
}

// Bodies returns the reported part of each answer's body, in the order of the reports.
func (f *FakeResolver) Bodies() <-chan string { return f.bodies }

// ReportExposed implements gateway.Resolver.
func (f *FakeResolver) ReportExposed(*dataplane.Key) { f.update(func(c *Calls) { c.Exposures++ }) }

// Begin implements gateway.Resolver.
func (f *FakeResolver) Begin(key *dataplane.Key) (func(), error) { return f.limits.Begin(key) }

// SetAside implements gateway.Resolver.
func (f *FakeResolver) SetAside(_ *dataplane.Key, wait time.Duration) {
	f.update(func(c *Calls) { c.Asides = append(c.Asides, wait) })
}

// CountUse implements gateway.Resolver.
func (f *FakeResolver) CountUse(_ *dataplane.Key, refused bool) {
	f.update(func(c *Calls) { c.Uses = append(c.Uses, refused) })
}

// Watch implements gateway.Resolver.
func (f *FakeResolver) Watch(_ *dataplane.Key, ended func(certain bool)) (stop func()) {
	f.update(func(*Calls) { f.watches[&ended] = true })
	return func() { f.update(func(*Calls) { delete(f.watches, &ended) }) }
}

// End tells all uses in progress that their keys have ended, or may have.
func (f *FakeResolver) End(certain bool) {
	f.update(func(*Calls) {
		for ended := range f.watches {
			(*ended)(certain)
		}
	})
}

// Log is a log that tests read while it is written.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

// Logger returns a logger that writes JSON of every level.
func (l *Log) Logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns the log so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Reset empties the log.
func (l *Log) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}
