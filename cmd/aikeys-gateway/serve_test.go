package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestServeBecomesReadyServesAndStops(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.start().awaitReady()
	require.JSONEq(t, `{"ready":true,"state":"ok"}`, p.readyz().body)
	require.Equal(t, http.StatusOK, get(t, p.address.Ops+"/healthz").status)

	got := p.models()
	require.Equal(t, http.StatusOK, got.status, got.body)
	require.Equal(t, e.key, got.header.Get("Agentrouter-Key-Id"))
	require.Equal(t, http.StatusUnauthorized, get(t, p.address.Gateway+"/openai/models", bearer("ak_other")...).status)
	e.provider.RequireNeverSaw(t, callerToken)
	e.control.RevokeKey(e.key)
	p.await("refused", func() bool { return p.models().status == http.StatusForbidden })

	metrics := get(t, p.address.Ops+"/metrics").body
	for _, name := range []string{"aikeys_gateway_requests_total", "aikeys_dataplane_", "go_goroutines", "process_open_fds"} {
		require.Contains(t, metrics, name)
	}
	require.Equal(t, cli.ExitOK, p.end(syscall.SIGTERM))
	require.Contains(t, p.log.String(), `"msg":"stopped"`)
	for where, text := range map[string]string{"output": p.log.String(), "metrics": metrics} {
		for _, secret := range []string{providerSecret, callerToken, dataplanetest.Token} {
			require.NotContains(t, text, secret, where)
		}
	}
}

func TestServeWithoutControlPlane(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.control.Down()
	p := e.start()
	require.Equal(t, http.StatusServiceUnavailable, p.models().status)
	require.JSONEq(t, `{"ready":false,"state":"no_lease"}`, p.readyz().body)
	require.Equal(t, http.StatusOK, get(t, p.address.Ops+"/healthz").status, "it lives")
	for range 2 {
		e.control.Up()
		p.awaitReady()
		p.await("served", func() bool { return p.models().status == http.StatusOK })
		e.control.Down()
		p.await("refused", func() bool { return p.models().status == http.StatusServiceUnavailable })
		p.await("not ready", func() bool { return p.readyz().status == http.StatusServiceUnavailable })
	}
}

// openStream sends a request for a streamed answer and returns once the answer has begun. The rest can be read from it.
func openStream(t *testing.T, p *process) io.Reader {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.address.Gateway+"/openai/chat/completions",
		strings.NewReader(`{"model":"gpt-test","stream":true,"messages":[{"role":"user","content":"hi"}]}`))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+callerToken)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	require.Equal(t, http.StatusOK, response.StatusCode)
	return response.Body
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	t.Run("requests in flight end", func(t *testing.T) {
		t.Parallel()
		release := make(chan struct{})
		p := newEnv(t, gatewaytest.ReleasedBy(release)).start().awaitReady()
		stream := openStream(t, p)
		p.signal(syscall.SIGINT)
		p.await("draining", func() bool { return strings.Contains(p.readyz().body, `"draining"`) })
		close(release)
		text, err := io.ReadAll(stream)
		require.NoError(t, err)
		require.Contains(t, string(text), "[DONE]")
		<-p.exited
		require.True(t, p.cmd.ProcessState.Success())
	})
	t.Run("requests that take too long are cut", func(t *testing.T) {
		t.Parallel()
		p := newEnv(t, gatewaytest.ReleasedBy(make(chan struct{}))).start("--shutdown-timeout", "100ms").awaitReady()
		openStream(t, p)
		require.Equal(t, cli.ExitFailure, p.end(syscall.SIGTERM))
		require.Contains(t, p.log.String(), "aikeys-gateway: requests in flight were cut after 100ms")
	})
	t.Run("a second signal ends it at once", func(t *testing.T) {
		t.Parallel()
		p := newEnv(t, gatewaytest.ReleasedBy(make(chan struct{}))).start().awaitReady()
		openStream(t, p)
		p.signal(syscall.SIGTERM)
		p.await("stopping", func() bool { return strings.Contains(p.log.String(), "stopping") })
		require.NotEqual(t, cli.ExitOK, p.end(syscall.SIGTERM))
		require.NotContains(t, p.log.String(), `"msg":"stopped"`)
	})
}

func TestPortInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	var stderr bytes.Buffer
	environ := gatewayEnviron(t, "http://127.0.0.1:1", dataplanetest.Token)
	require.Equal(t, cli.ExitFailure, run(t.Context(), []string{"serve", "--ops-listen", listener.Addr().String()}, environ, io.Discard, &stderr))
	require.Contains(t, stderr.String(), "choose another address with --ops-listen or AIKEYS_GATEWAY_OPS_LISTEN")
}

func TestNoGoroutinesAfterExit(t *testing.T) {
	e := newEnv(t)
	before := goleak.IgnoreCurrent()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	code := make(chan int, 1)
	go func() {
		args := []string{"serve", "--forward-auth-listen", "127.0.0.1:0", "--ext-authz-listen", "127.0.0.1:0"}
		code <- run(ctx, args, e.environ, io.Discard, io.Discard)
	}()
	dataplanetest.Eventually(t, "a stream", func() bool { return len(e.control.Connections()) > 0 })
	stop()
	require.Equal(t, cli.ExitOK, <-code)
	goleak.VerifyNone(t, before)
}

// A newer key replaces the first, and the first serves again once the newer one is revoked: no request fails in between.
// Members who are removed, and API keys that are revoked, are refused within a lease.
func TestChangesReachGateways(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		first := c.register(replica)
		c.run("admin member set --customer acme --project chat --user bob --role member")
		bob := c.run("admin token create --customer acme --project chat --user bob")
		spare := c.run("admin token create --customer acme --project chat --user alice")
		caching := c.startGateway(replica.address.Dataplane, "--max-stale=5s")
		fetching := c.startGateway(replica.address.Dataplane, "--cache-size=1", c.alice, bob) // nearly each request is a fetch
		caching.awaitAnswer(first)
		began := time.Now()
		for range 3 {
			newer := c.register(replica)
			registered := time.Now()
			caching.awaitAnswer(newer)
			fetching.awaitAnswer(newer)
			time.Sleep(time.Until(registered.Add(lease + margin))) // so that requests after it are checked
			for _, g := range []*probedGateway{caching, fetching} {
				g.awaitAnswer(newer)
				g.requireNone(first, registered.Add(lease+margin))
			}
			revoked := c.revoke(replica, newer, "10s")
			require.Equal(t, "complete", revoked.State)
			require.Equal(t, []int{2, 2}, []int{revoked.DataPlanes, revoked.Acknowledged})
			for _, g := range []*probedGateway{caching, fetching} {
				g.awaitAnswer(first)
				g.requireNone(newer, revoked.answered)
			}
		}
		caching.requireAll(true, began, time.Now())

		removals := map[string]struct{ caller, answer, command string }{
			"a member":   {bob, http.StatusText(http.StatusForbidden), "admin member remove --customer acme --project chat --user bob"},
			"an API key": {spare, http.StatusText(http.StatusUnauthorized), "admin token revoke --customer acme --project chat --id " + strings.Split(spare, "_")[1]},
		}
		for name, r := range removals {
			g := c.startGateway(replica.address.Dataplane, "--max-stale=5s", r.caller)
			g.awaitAnswer(first)
			c.run(r.command)
			removed := time.Now()
			time.Sleep(time.Until(removed.Add(lease + margin)))
			g.awaitAnswer(r.answer)
			g.requireAll(false, removed.Add(lease+margin), time.Now())
			t.Log(name + " is refused")
		}
		caching.requireAll(true, began, time.Now())
	})
}

// No gateway can acknowledge a revocation: two follow a replica that hangs, one is stopped, one was killed. The receipt is
// complete when time alone makes it true, and from then on no request gets the key, whatever continues.
func TestReceiptOfUnreachableGateways(t *testing.T) {
	t.Parallel()
	const maxStale = 2 * time.Second
	c := newControlPlane(t, modelstest.EnginePostgres.URL(t))
	hanging, other := c.start(), c.start()
	older, newer := c.register(other), c.register(other)
	strict, stale := c.startGateway(hanging.address.Dataplane, ""), c.startGateway(hanging.address.Dataplane, "--max-stale=2s")
	stopped, killed := c.startGateway(other.address.Dataplane, "--max-stale=2s"), c.startGateway(other.address.Dataplane, "--max-stale=2s")
	for _, g := range []*probedGateway{strict, stale, stopped, killed} {
		g.awaitAnswer(newer)
	}
	t.Cleanup(func() { hanging.signal(syscall.SIGCONT) })

	began := time.Now()
	hanging.signal(syscall.SIGSTOP)
	stopped.signal(syscall.SIGSTOP)
	killed.end(syscall.SIGKILL)
	revoked := c.revoke(other, newer, "0s")
	require.Equal(t, "pending", revoked.State)
	require.Equal(t, 4, revoked.DataPlanes)
	require.False(t, revoked.CompleteBy.After(revoked.answered.Add(lease+maxStale+5*time.Millisecond)), "times are rounded")
	complete := c.revoke(other, newer, "10s")
	require.Equal(t, "complete", complete.State)
	require.Zero(t, complete.Acknowledged)
	require.False(t, complete.answered.Before(revoked.CompleteBy.Add(-5*time.Millisecond)))
	stale.awaitAnswer(http.StatusText(http.StatusServiceUnavailable))
	continued := time.Now()
	hanging.signal(syscall.SIGCONT)
	stopped.signal(syscall.SIGCONT)

	again := c.startGateway(other.address.Dataplane, "--max-stale=2s")
	for _, g := range []*probedGateway{strict, stale, stopped, again} {
		g.awaitAnswer(older)
		g.requireNone(newer, complete.answered)
	}
	strict.requireNone(newer, began.Add(lease+margin))
	strict.requireAll(false, began.Add(lease+margin), continued)
	stale.requireAll(true, began, began.Add(maxStale))
	for _, g := range []*probedGateway{strict, stale, stopped} {
		g.awaitReady()
	}
	last := c.revoke(other, older, "10s")
	require.Equal(t, []any{"complete", 4}, []any{last.State, last.Acknowledged}, "all follow changes as before")
}

// A control plane's process is killed right after a revocation was acknowledged, in one case before it could send it on. Its
// gateways resume at another process and miss nothing; where that runs already, they refuse no request.
func TestControlPlaneIsKilled(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		serving := c.start()
		var target atomic.Value // of the load balancer between gateways and control plane
		target.Store(serving.address.Dataplane)
		balancer := httptest.NewServer(&httputil.ReverseProxy{FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
			to, _ := url.Parse(target.Load().(string))
			r.SetURL(to)
		}})
		t.Cleanup(balancer.Close)
		older := c.register(serving)
		strict, stale := c.startGateway(balancer.URL, ""), c.startGateway(balancer.URL, "--max-stale=10s")
		stale.awaitAnswer(older)
		began := time.Now()
		for _, frozen := range []bool{false, true} {
			newer := c.register(serving)
			strict.awaitAnswer(newer)
			stale.awaitAnswer(newer)
			asked, next := serving, (*process)(nil)
			if e == modelstest.EnginePostgres { // on SQLite there is one process at a time
				next = c.start()
				asked = next
				if frozen {
					serving.signal(syscall.SIGSTOP)
				}
			}
			revoked := c.revoke(asked, newer, "0s")
			require.Equal(t, 2, revoked.DataPlanes)
			serving.end(syscall.SIGKILL)
			if next == nil {
				next = c.start()
			}
			target.Store(next.address.Dataplane)
			complete := c.revoke(next, newer, "20s")
			require.Equal(t, "complete", complete.State)
			for _, g := range []*probedGateway{strict, stale} {
				g.awaitAnswer(older)
				g.requireNone(newer, complete.answered)
			}
			strict.requireNone(newer, revoked.answered.Add(lease+margin))
			t.Logf("frozen %v: the receipt was complete after %v", frozen, complete.answered.Sub(revoked.answered))
			serving = next
		}
		if e == modelstest.EnginePostgres { // elsewhere nothing answers until the next process has started
			stale.requireAll(true, began, time.Now())
		}
	})
}

// PostgreSQL crashes and restarts, and later is away for 3 s. Meanwhile revocations fail, a gateway without a grace refuses
// requests when its lease has ended, and one with a grace refuses none.
func TestDatabaseOutage(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	c := newControlPlane(t, cluster.URL("postgres"))
	replica := c.start()
	older, newer := c.register(replica), c.register(replica)
	strict, stale := c.startGateway(replica.address.Dataplane, ""), c.startGateway(replica.address.Dataplane, "--max-stale=20s")
	stale.awaitAnswer(newer)
	began := time.Now()
	for _, mode := range []modelstest.StopMode{modelstest.Immediate, modelstest.Fast} {
		require.NoError(t, cluster.Stop(mode))
		stopped := time.Now()
		if mode == modelstest.Fast {
			got := ask(t, http.MethodDelete, replica.address.API+"/v1/aikeys/"+newer, "", bearer(c.alice)...)
			require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
			require.NotEmpty(t, got.header.Get("Retry-After"))
			time.Sleep(time.Until(stopped.Add(3 * time.Second))) // the outage
			strict.requireAll(false, stopped.Add(lease+margin), time.Now())
		}
		require.NoError(t, cluster.Start())
		strict.awaitReady()
		strict.awaitAnswer(newer)
	}
	stale.awaitReady()
	revoked := c.revoke(replica, newer, "20s")
	require.Equal(t, []any{"complete", 2}, []any{revoked.State, revoked.Acknowledged})
	for _, g := range []*probedGateway{strict, stale} {
		g.awaitAnswer(older)
		g.requireNone(newer, revoked.answered)
	}
	stale.requireAll(true, began, time.Now())
}
