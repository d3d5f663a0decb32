package main

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

const (
	// lease is that of the control plane, and margin what a busy machine may add to it.
	lease, margin = time.Second, 150 * time.Millisecond
	// back is how long after a fault's end a key may go on being refused.
	back = 2 * time.Second
	// pace is how often a checker sends.
	pace = 5 * time.Millisecond
)

// plane is a data plane: a gateway with its resolver, and the checker of its answers.
type plane struct {
	*checker

	maxStale time.Duration
	resolver *dataplane.Resolver
}

// planeOptions configure a plane. A pace of 0 means the default.
type planeOptions struct {
	name                  string
	provider              *gatewaytest.Provider
	control, edge, caller string
	maxStale, pace        time.Duration
}

// newPlane starts a plane and a checker that sends it requests until the test ends.
func newPlane(t *testing.T, o planeOptions) *plane {
	t.Helper()
	resolver, err := dataplane.New(dataplane.Config{
		ControlPlane: o.control, Token: func() string { return o.edge }, MaxStale: o.maxStale,
	})
	require.NoError(t, err)
	upstream, err := url.Parse(o.provider.URL + "/v1")
	require.NoError(t, err)
	proxy, err := gateway.New(gateway.Config{
		Resolver: resolver, Log: slog.New(slog.DiscardHandler), Upstreams: map[string]*url.URL{"openai": upstream},
	})
	require.NoError(t, err)
	dataplanetest.Run(t, resolver)
	server := httptest.NewServer(proxy)
	t.Cleanup(func() {
		server.Close()
		proxy.Close()
	})
	require.Eventually(t, func() bool { return resolver.Status().Leased }, patience, time.Millisecond, "%s has no lease", o.name)
	p := &plane{maxStale: o.maxStale, resolver: resolver}
	p.checker = check(t, o.name, server.URL, o.caller, cmp.Or(o.pace, pace))
	return p
}

// bound is the declared longest time that a key may serve after its revocation.
func (p *plane) bound() time.Duration { return lease + p.maxStale }

// covered is the time until which this plane may serve if it receives nothing more from the control plane.
func (p *plane) covered() time.Time {
	return time.Now().Add(p.resolver.Status().LeaseRemaining + p.maxStale)
}

// request is a request that a checker has sent. Status 0 means that it failed without a response.
type request struct {
	sent, done time.Time
	status     int
	key        string
}

func (r request) served() bool { return r.status == http.StatusOK }

// checker keeps sending requests through a gateway and records the outcome of each.
type checker struct {
	t    *testing.T
	name string
	stop func() // ends it; its requests have been answered then
	busy *witness

	mu  sync.Mutex
	all []request
}

// check starts a checker, which stops when the test ends.
func check(t *testing.T, name, gateway, caller string, every time.Duration) *checker {
	t.Helper()
	c := &checker{t: t, name: name, busy: newWitness(t)}
	transport := &http.Transport{MaxIdleConnsPerHost: 1024}
	client := &http.Client{Transport: transport, Timeout: patience}
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				sending.Go(func() { c.send(client, gateway, caller) })
			}
		}
	})
	c.stop = func() {
		cancel()
		sending.Wait()
		transport.CloseIdleConnections()
	}
	t.Cleanup(c.stop)
	return c
}

func (c *checker) send(client *http.Client, gateway, caller string) {
	r := request{sent: time.Now()}
	asked, err := http.NewRequestWithContext(context.Background(), http.MethodGet, gateway+"/openai/models", http.NoBody)
	if err != nil {
		return
	}
	asked.Header.Set("Authorization", "Bearer "+caller)
	if response, err := client.Do(asked); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		r.status, r.key = response.StatusCode, response.Header.Get("Agentrouter-Key-Id")
	}
	r.done = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, r)
}

// requests returns those that have ended, in the order in which they were sent.
func (c *checker) requests() []request {
	c.mu.Lock()
	all := slices.Clone(c.all)
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b request) int { return a.sent.Compare(b.sent) })
	return all
}

// await waits until a request that was sent from now on is as it should be, and returns it.
func (c *checker) await(what string, is func(request) bool) request {
	c.t.Helper()
	from := time.Now()
	var found request
	require.Eventually(c.t, func() bool {
		for _, r := range slices.Backward(c.requests()) {
			if r.sent.After(from) && is(r) {
				found = r
				return true
			}
		}
		return false
	}, patience, 5*time.Millisecond, "%s: never %s", c.name, what)
	return found
}

// awaitKey waits until a key serves.
func (c *checker) awaitKey(key string) request {
	c.t.Helper()
	return c.await("served with "+key, func(r request) bool { return r.served() && r.key == key })
}

// awaitStatus waits until requests are answered with a status.
func (c *checker) awaitStatus(status int) request {
	c.t.Helper()
	return c.await("that status", func(r request) bool { return r.status == status })
}

// requireNone fails the test if a request that was sent at a time or later was served with the key. It says when the last
// was sent that was, counted from since.
func (c *checker) requireNone(key string, from, since time.Time) {
	c.t.Helper()
	last, late := request{}, 0
	for _, r := range c.requests() {
		if !r.served() || r.key != key {
			continue
		}
		last = r
		if !r.sent.Before(from) {
			late++
		}
	}
	if !last.sent.IsZero() {
		c.t.Logf("%s: the last request that a key served after it was revoked was sent at %+d ms; allowed to %+d ms",
			c.name, last.sent.Sub(since).Milliseconds(), from.Sub(since).Milliseconds())
	}
	require.Zero(c.t, late, "%s: requests were served with a key that must not serve", c.name)
}

// requireRefused fails the test if a request was served that was sent and answered between two times.
func (c *checker) requireRefused(from, to time.Time) {
	c.t.Helper()
	refused := 0
	for _, r := range c.requests() {
		if r.sent.Before(from) || r.done.After(to) {
			continue
		}
		require.False(c.t, r.served(), "%s: a request was served %+d ms after nothing might serve", c.name, r.sent.Sub(from).Milliseconds())
		refused++
	}
	require.NotZero(c.t, refused, "%s: nothing was sent", c.name)
}

// window is a time in which requests may be refused.
type window struct{ from, to time.Time }

// requireServed fails the test if a request was refused that was sent between two times, unless it was on its way in one of
// the windows, or the machine was too busy. It says which were refused.
func (c *checker) requireServed(from, to time.Time, allowed ...window) {
	c.t.Helper()
	allowed = append(allowed, c.busy.windows()...)
	var first, last, worst request
	refused, outside, sent := 0, 0, 0
	for _, r := range c.requests() {
		if r.sent.Before(from) || r.sent.After(to) {
			continue
		}
		sent++
		if r.served() {
			continue
		}
		if refused++; refused == 1 {
			first = r
		}
		last = r
		if !slices.ContainsFunc(allowed, func(w window) bool { return !r.done.Before(w.from) && !r.sent.After(w.to) }) {
			outside++
			worst = r
		}
	}
	if refused == 0 {
		c.t.Logf("%s: none of %d requests was refused", c.name, sent)
	} else {
		c.t.Logf("%s: %d of %d requests were refused, sent from %+d to %+d ms", c.name, refused, sent,
			first.sent.Sub(from).Milliseconds(), last.sent.Sub(from).Milliseconds())
	}
	require.Zero(c.t, outside, "%s: requests were refused outside of what the fault forces, the last with %d at %+d ms",
		c.name, worst.status, worst.sent.Sub(from).Milliseconds())
	require.NotZero(c.t, sent, "%s: nothing was sent", c.name)
}
