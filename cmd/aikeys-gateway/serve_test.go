package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/models"

	"github.com/agentrouter/aikeys/internal/filereload/filereloadtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"

	"bytes"
	"context"
	"encoding/json"
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
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestServeBecomesReadyServesAndStops(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.start().awaitReady()
	require.JSONEq(t, `{"ready":true,"state":"ok"}`, p.readyz().body)
	require.Equal(t, http.StatusOK, send(http.MethodGet, p.address.Ops+"/healthz", "", "").status)

	got := p.models()
	require.Equal(t, http.StatusOK, got.status, got.body)
	require.Equal(t, e.key, got.header.Get("Agentrouter-Key-Id"))
	require.Equal(t, http.StatusUnauthorized, send(http.MethodGet, p.address.Gateway+"/openai/models", "ak_other", "").status)
	e.provider.RequireNeverSaw(t, callerToken)
	e.control.RevokeKey(e.key)
	p.await("refused", func() bool { return p.models().status == http.StatusForbidden })

	metrics := send(http.MethodGet, p.address.Ops+"/metrics", "", "").body
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
	require.Equal(t, http.StatusOK, send(http.MethodGet, p.address.Ops+"/healthz", "", "").status, "it lives")
	for range 2 {
		e.control.Up()
		p.awaitReady()
		p.await("served", func() bool { return p.models().status == http.StatusOK })
		e.control.Down()
		p.await("refused", func() bool { return p.models().status == http.StatusServiceUnavailable })
		p.await("not ready", func() bool { return p.readyz().status == http.StatusServiceUnavailable })
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	// openStream sends a request for a streamed answer and returns once the answer has begun. The rest can be read from it.
	openStream := func(t *testing.T, p *process) io.Reader {
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
		p.awaitLog("stopping")
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
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() {
		args := []string{"serve", "--forward-auth-listen", "unix:" + t.TempDir() + "/f.sock", "--ext-authz-listen", "127.0.0.1:0"}
		code <- run(ctx, args, e.environ, io.Discard, &stderr)
	}()
	dataplanetest.Eventually(t, "a stream", func() bool { return len(e.control.Connections()) > 0 })
	stop()
	require.Equal(t, cli.ExitOK, <-code, "%s", &stderr)
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
		bob, _ := c.addBob(replica)
		spare := c.run("admin token create --customer acme --project chat --user alice")
		caching := c.startGateway(replica.address.Dataplane, "--max-stale=5s")
		fetching := c.startGateway(replica.address.Dataplane, "--cache-size=1", c.alice, bob) // nearly each request is a fetch
		caching.awaitAnswer(first)
		began := time.Now()
		keys := []string{first}
		for range 3 {
			newer := c.register(replica)
			keys = append(keys, newer)
			registered := time.Now()
			caching.awaitAnswer(newer)
			fetching.awaitAnswer(newer)
			time.Sleep(time.Until(registered.Add(lease + margin))) // so that requests after it are checked
			for _, g := range []*probedGateway{caching, fetching} {
				g.awaitAnswer(newer)
				require.NotContains(t, g.answers(registered.Add(lease+margin), time.Now()), first)
			}
			revoked := c.revoke(replica, newer, "10s")
			answered := time.Now()
			require.Equal(t, []any{"complete", 2, 2}, []any{revoked.State, revoked.DataPlanes, revoked.Acknowledged})
			for _, g := range []*probedGateway{caching, fetching} {
				g.awaitAnswer(first)
				require.NotContains(t, g.answers(answered, time.Now()), newer)
			}
		}
		require.Subset(t, keys, caching.answers(began, time.Now()), "no request failed")

		g := c.startGateway(replica.address.Dataplane, "--max-stale=5s --failed-auth-limit=0", spare)
		g.awaitAnswer(first)
		c.run("admin token revoke --customer acme --project chat --id " + strings.Split(spare, "_")[1])
		revoked := time.Now()
		time.Sleep(time.Until(revoked.Add(lease + margin)))
		g.awaitAnswer(http.StatusText(http.StatusUnauthorized))
		require.Equal(t, []string{http.StatusText(http.StatusUnauthorized)}, g.answers(revoked.Add(lease+margin), time.Now()))

		g = c.startGateway(replica.address.Dataplane, "--max-stale=5s", bob)
		g.awaitAnswer(first)
		var removal struct{ Receipt pub.Receipt }
		got := send(http.MethodDelete, replica.address.API+projectPath+"/members/bob?wait=10s", c.alice, "")
		removed := time.Now()
		require.NoError(t, json.Unmarshal([]byte(got.body), &removal), got.body)
		require.Equal(t, []any{"complete", 4, 4}, []any{removal.Receipt.State, removal.Receipt.DataPlanes, removal.Receipt.Acknowledged})
		g.awaitAnswer(http.StatusText(http.StatusForbidden))
		require.Equal(t, []string{http.StatusText(http.StatusForbidden)}, g.answers(removed, time.Now()), "from the receipt on")
		require.Equal(t, http.StatusOK, send(http.MethodPost, replica.address.API+projectPath+"/members/bob/restore", c.alice, "").status)
		g.awaitAnswer(first)
		require.Subset(t, keys, caching.answers(began, time.Now()), "no request failed")
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
	revoked, answered := c.revoke(other, newer, "0s"), time.Now()
	require.Equal(t, "pending", revoked.State)
	require.Equal(t, 4, revoked.DataPlanes)
	require.False(t, revoked.CompleteBy.After(answered.Add(lease+maxStale+5*time.Millisecond)), "times are rounded")
	complete, completed := c.revoke(other, newer, "10s"), time.Now()
	require.Equal(t, "complete", complete.State)
	require.Zero(t, complete.Acknowledged)
	require.False(t, completed.Before(revoked.CompleteBy.Add(-5*time.Millisecond)))
	stale.awaitAnswer(unavailable)
	continued := time.Now()
	hanging.signal(syscall.SIGCONT)
	stopped.signal(syscall.SIGCONT)

	again := c.startGateway(other.address.Dataplane, "--max-stale=2s")
	for _, g := range []*probedGateway{strict, stale, stopped, again} {
		g.awaitAnswer(older)
		require.NotContains(t, g.answers(completed, time.Now()), newer)
	}
	require.NotContains(t, strict.answers(began.Add(lease+margin), time.Now()), newer)
	require.Equal(t, []string{unavailable}, strict.answers(began.Add(lease+margin), continued))
	require.Equal(t, []string{newer}, stale.answers(began, began.Add(maxStale)))
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
		var target atomic.Pointer[url.URL] // of the load balancer between gateways and control plane
		balance := func(to *process) {
			address, err := url.Parse(to.address.Dataplane)
			require.NoError(t, err)
			target.Store(address)
		}
		balance(serving)
		balancer := httptest.NewServer(&httputil.ReverseProxy{FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target.Load())
		}, ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // cuts the connection
		}})
		t.Cleanup(balancer.Close)
		older := c.register(serving)
		strict, stale := c.startGateway(balancer.URL, ""), c.startGateway(balancer.URL, "--max-stale=5s")
		stale.awaitAnswer(older)
		began := time.Now()
		for _, frozen := range []bool{false, true} {
			// A stream that was replaced counts until its lease ends.
			for end := time.Now().Add(patience); c.revoke(serving, c.register(serving), "0s").DataPlanes != 2; {
				require.True(t, time.Now().Before(end))
			}
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
			require.Equal(t, 2, c.revoke(asked, newer, "0s").DataPlanes)
			answered := time.Now()
			if next != nil {
				balance(next)
			}
			serving.end(syscall.SIGKILL)
			if next == nil {
				next = c.start()
				balance(next)
			}
			require.Equal(t, "complete", c.revoke(next, newer, "20s").State)
			completed := time.Now()
			for _, g := range []*probedGateway{strict, stale} {
				g.awaitAnswer(older)
				require.NotContains(t, g.answers(completed, time.Now()), newer)
			}
			require.NotContains(t, strict.answers(answered.Add(lease+margin), time.Now()), newer)
			serving = next
		}
		if e == modelstest.EnginePostgres { // elsewhere nothing answers until the next process has started
			require.NotContains(t, stale.answers(began, time.Now()), unavailable)
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
			got := send(http.MethodDelete, replica.address.API+"/v1/aikeys/"+newer, c.alice, "")
			require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
			require.NotEmpty(t, got.header.Get("Retry-After"))
			time.Sleep(time.Until(stopped.Add(3 * time.Second))) // the outage
			require.Equal(t, []string{unavailable}, strict.answers(stopped.Add(lease+margin), time.Now()))
		}
		require.NoError(t, cluster.Start())
		strict.awaitReady()
		strict.awaitAnswer(newer)
	}
	stale.awaitReady()
	// A stream that was replaced during an outage counts until its lease and its grace end. Keys of another provider serve no request here.
	unused := `{"provider":"anthropic","name":"unused","secret":"sk-ant-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"}`
	for end := time.Now().Add(3 * patience); c.revoke(replica, c.call(replica, http.MethodPost, "", unused).Key.ID, "0s").DataPlanes != 2; {
		require.True(t, time.Now().Before(end))
	}
	revoked, answered := c.revoke(replica, newer, "20s"), time.Now()
	require.Equal(t, []any{"complete", 2}, []any{revoked.State, revoked.Acknowledged})
	for _, g := range []*probedGateway{strict, stale} {
		g.awaitAnswer(older)
		require.NotContains(t, g.answers(answered, time.Now()), newer)
	}
	require.Subset(t, []string{older, newer}, stale.answers(began, time.Now()), "it refused none")
}

func TestStalenessGrace(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.start("--max-stale", "1h").awaitReady()
	require.Equal(t, http.StatusOK, p.models().status)
	e.control.Down()
	p.await("stale", func() bool { return strings.Contains(p.readyz().body, `"stale"`) })
	require.Equal(t, http.StatusOK, p.readyz().status)
	require.Equal(t, http.StatusOK, p.models().status)
}

// While the control plane does not allow the gateway's grace, the gateway is not ready, logs why, and fetches for each request.
func TestGraceAboveTheControlPlanesLimit(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.control.LimitMaxStale(5 * time.Minute)
	p := e.start("--max-stale", "1h")
	p.await("too stale", func() bool { return p.readyz().body == `{"ready":false,"state":"too_stale"}`+"\n" })
	require.Equal(t, http.StatusServiceUnavailable, p.readyz().status)
	p.awaitLog("must be at most 300000")
	p.awaitLog("lower it here, or raise the control plane's --max-stale-limit")
	require.Equal(t, http.StatusOK, p.models().status)
	e.control.LimitMaxStale(time.Hour)
	p.awaitReady()
}

func TestCredentialIsReloaded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "edge.token")
	require.NoError(t, os.WriteFile(file, []byte(dataplanetest.Token), 0o600))
	e, second := newEnv(t), "dp_EXAMPLE_SECOND__SECOND_"
	e.control.SetToken(second)
	p := e.start("--token-file", file)
	p.await("refused", func() bool { return strings.Contains(p.readyz().body, `"refused"`) })
	filereloadtest.ReplaceAfterFailure(t, file, []byte(second), func() bool {
		return strings.Contains(p.log.String(), "the file must hold one word")
	})
	p.awaitReady()
	p.awaitLog(`"msg":"a file has changed and was read again","what":"credential"`)
	require.NotContains(t, p.log.String(), "dp_")
}

func TestForwardAuthAsksForItsSecret(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("opensesame\n"), 0o600))
	p := newEnv(t).start("--forward-auth-listen", "127.0.0.1:0", "--forward-auth-secret-file", file).awaitReady()
	require.Equal(t, http.StatusForbidden, send(http.MethodGet, p.address.ForwardAuth+"/auth/openai", callerToken, "").status)
	got := send(http.MethodGet, p.address.ForwardAuth+"/auth/openai", callerToken, "",
		"Agentrouter-Forward-Auth", "opensesame", "X-Original-Uri", "/openai/chat/completions")
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "Bearer "+providerSecret, got.header.Get("Authorization"))
}

// Only processes of the users that the operator names get answers on the sockets.
func TestProxiesOnUnixSockets(t *testing.T) {
	t.Parallel()
	p := newEnv(t).startForProxies("--auth-socket-users", "65534")
	path := strings.TrimPrefix(p.address.ForwardAuth, "unix:")
	ask := func(user uint32) (string, error) {
		curl := exec.CommandContext(t.Context(), "curl", "--silent", "--show-error", "--dump-header", "-", "--unix-socket", path,
			"--header", "Authorization: Bearer "+callerToken, "--header", "X-Forwarded-For: 192.0.2.7",
			"--header", "X-Original-Uri: /openai/chat/completions", "http://aikeys/auth/openai")
		curl.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		if int(user) == os.Geteuid() {
			curl.SysProcAttr = nil
		}
		output, err := curl.CombinedOutput()
		return string(output), err
	}
	got, err := ask(uint32(os.Geteuid()))
	require.NoError(t, err, got)
	require.Contains(t, got, "Authorization: Bearer "+providerSecret)
	p.awaitLog(`"client":"192.0.2.7"`) // the proxy is trusted to name it
	if os.Geteuid() != 0 {
		return // only root can act as other users; unixsocket.TestOtherUsersAreDisconnected runs for everybody
	}
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o755))
	got, err = ask(65534)
	require.NoError(t, err, got)
	require.Contains(t, got, "Authorization: Bearer "+providerSecret)
	got, err = ask(65533)
	require.Error(t, err, "the connection is closed")
	require.NotContains(t, got, "HTTP/1.1")
}

func TestProxiesOverMutualTLS(t *testing.T) {
	t.Parallel()
	own, proxies, strangers := tlsfilestest.WriteCertificate(t, t.TempDir(), 1), tlsfilestest.NewAuthority(t), tlsfilestest.NewAuthority(t)
	p := newEnv(t).start("--forward-auth-listen", "127.0.0.1:0", "--ext-authz-listen", "127.0.0.1:0",
		"--tls-cert", own.CertFile, "--tls-key", own.KeyFile, "--auth-client-ca", proxies.Write(t, filepath.Join(t.TempDir(), "ca.pem"))).awaitReady()
	for name, c := range map[string]struct {
		authority *tlsfilestest.Authority
		served    bool
	}{
		"with a certificate of the proxies' authority": {proxies, true},
		"with another authority's":                     {strangers, false},
		"with none":                                    {nil, false},
	} {
		client := &tls.Config{RootCAs: own.Pool(t), MinVersion: tls.VersionTLS12}
		if c.authority != nil {
			client.GetClientCertificate = c.authority.Issue(t, t.TempDir(), tlsfilestest.Named("proxy.example")).Show(t)
		}
		t.Run("forward-auth "+name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.address.ForwardAuth+"/auth/openai", http.NoBody)
			require.NoError(t, err)
			request.Header.Set("Authorization", "Bearer "+callerToken)
			request.Header.Set("X-Original-Uri", "/openai/chat/completions")
			response, err := (&http.Transport{TLSClientConfig: client, DisableKeepAlives: true}).RoundTrip(request)
			if !c.served {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, "Bearer "+providerSecret, response.Header.Get("Authorization"))
		})
		t.Run("ext_authz "+name, func(t *testing.T) {
			conn, err := grpc.NewClient(p.address.ExtAuthz, grpc.WithTransportCredentials(credentials.NewTLS(client)))
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			_, err = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
			require.Equal(t, c.served, err == nil, "%v", err)
		})
	}
}

func TestPagesOfNamedOriginsCallTheGateway(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.start("--cors-origins", "https://chat.example.com,http://localhost:3000").awaitReady()
	preflight := []string{"Origin", "http://localhost:3000", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization"}
	got := send(http.MethodOptions, p.address.Gateway+"/openai/chat/completions", "", "", preflight...)
	require.Equal(t, http.StatusNoContent, got.status, "without a credential")
	require.Equal(t, "http://localhost:3000", got.header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, e.provider.Requests())
	for credential, status := range map[string]int{callerToken: http.StatusOK, "ak_wrong": http.StatusUnauthorized} {
		got = send(http.MethodGet, p.address.Gateway+"/openai/models", credential, "", "Origin", "https://chat.example.com")
		require.Equal(t, status, got.status)
		require.Equal(t, "https://chat.example.com", got.header.Get("Access-Control-Allow-Origin"))
	}
	closed := e.start().awaitReady()
	got = send(http.MethodOptions, closed.address.Gateway+"/openai/chat/completions", "", "", preflight...)
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.NotContains(t, got.header, "Access-Control-Allow-Origin")
}

func TestCallersOverTLS(t *testing.T) {
	t.Parallel()
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	p := newEnv(t).start("--tls-cert", certificate.CertFile, "--tls-key", certificate.KeyFile).awaitReady()
	require.Regexp(t, `^https://`, p.address.Gateway)
	trusting := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12},
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.address.Gateway+"/openai/models", http.NoBody)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+callerToken)
	response, err := trusting.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	require.Equal(t, http.StatusOK, response.StatusCode)
}

func TestUpstreamsReplaceProviders(t *testing.T) {
	t.Parallel()
	e, elsewhere := newEnv(t), gatewaytest.StartProvider(t, gatewaytest.Accepting(providerSecret))
	p := e.start("--upstream", "openai="+elsewhere.URL+"/v1").awaitReady()
	require.Equal(t, http.StatusOK, p.models().status)
	require.Len(t, elsewhere.Requests(), 1)
	require.Empty(t, e.provider.Requests())
}

// A provider whose certificate an authority of the operator's has signed is reached only with --upstream-ca.
func TestUpstreamsOfOtherAuthorities(t *testing.T) {
	t.Parallel()
	e := newEnv(t, gatewaytest.WithTLS())
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.provider.Certificate().Raw}), 0o600))
	require.Equal(t, http.StatusOK, e.start("--upstream-ca", file).awaitReady().models().status)
	served := len(e.provider.Requests())
	require.Equal(t, http.StatusBadGateway, e.start().awaitReady().models().status)
	require.Len(t, e.provider.Requests(), served)
}

// A gateway's certificate is its credential: with aikeysd it fetches, follows changes and acknowledges, before and after the
// certificate is replaced and the first one expires, until its data plane is revoked.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	c, authority, own := newControlPlane(t, modelstest.EnginePostgres.URL(t)), tlsfilestest.NewAuthority(t), tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	plain := c.start()
	secure := c.start("AIKEYS_TLS_CERT="+own.CertFile, "AIKEYS_TLS_KEY="+own.KeyFile, "AIKEYS_DATAPLANE_CLIENT_CA="+authority.Write(t, filepath.Join(t.TempDir(), "ca.crt")))
	older, newer := c.register(plain), c.register(plain)
	admit := "admin dataplane create --name edge --customer acme --certificate uri:spiffe://acme/edge"
	require.Empty(t, c.run(admit), "there is no token")
	start := func(certificate tlsfilestest.Certificate) *process {
		return startProcess(t, os.Args[0], gatewayEnviron(t, secure.address.Dataplane, "")[:4], "--control-plane-ca", own.CertFile,
			"--client-cert", certificate.CertFile, "--client-key", certificate.KeyFile, "--upstream", "openai="+c.provider.URL+"/v1")
	}
	issue := func(dir, name string, expires time.Time) tlsfilestest.Certificate {
		return authority.Issue(t, dir, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/" + name}}
			c.NotAfter = expires
		})
	}
	dir, expires, later := t.TempDir(), time.Now().Truncate(time.Second).Add(5*time.Second), time.Now().Add(time.Hour)
	p := start(issue(dir, "edge", expires)).awaitReady()
	serving := func() string {
		return send(http.MethodGet, p.address.Gateway+"/openai/models", c.alice, "").header.Get("Agentrouter-Key-Id")
	}
	require.Equal(t, newer, serving())
	issue(dir, "edge", later)
	for time.Now().Before(expires.Add(500 * time.Millisecond)) {
		require.Equal(t, newer, serving(), "before the first certificate expires, and after")
	}
	revoked := c.revoke(plain, newer, "10s")
	require.Equal(t, []any{"complete", 1}, []any{revoked.State, revoked.DataPlanes})
	require.Equal(t, older, serving())
	p.await("revocations are acknowledged, with a stream by the new certificate", func() bool {
		return c.revoke(plain, c.register(plain), "10s").Acknowledged == 1
	})
	p.awaitLog(`"msg":"a file has changed and was read again","what":"client certificate"`)

	refused := func(p *process) {
		p.await("refused", func() bool { return strings.Contains(p.readyz().body, `"refused"`) })
	}
	c.run("admin dataplane revoke --name edge")
	refused(p)
	p.await("without a key", func() bool { return serving() == "" })
	c.run(admit)
	p.awaitReady()
	require.Equal(t, older, serving(), "the name is another data plane's now")
	refused(start(issue(t.TempDir(), "nobody", later)))
	require.Equal(t, cli.ExitOK, p.end(syscall.SIGTERM))
}

// The control plane's clock is set forward and back by an hour. Keys that are registered afterwards serve, keys that are revoked
// are refused within the bound and have complete receipts, and no request fails.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	var step atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(step.Load())) }
	database := modelstest.EngineSQLite.MigratedURL(t)
	store := modelstest.OpenStore(t, database, models.Options{})
	s := aikeystest.Start(t, aikeystest.Options{Store: store, Now: now})
	changes, err := feed.New(feed.Config{Store: store})
	require.NoError(t, err)
	catalogue, err := providers.Load()
	require.NoError(t, err)
	observer, err := httpapi.NewObserver("dataplane", slog.New(slog.DiscardHandler), prometheus.NewRegistry(), nil)
	require.NoError(t, err)
	handler, err := dataplane.NewHandler(dataplane.Config{
		Store: store, Sealer: s.Sealer, Providers: catalogue, Feed: changes, Now: now, MaxStale: time.Minute,
		Sessions: auth.New(auth.Config{Tokens: store, Now: now}),
		API: httpapi.Config{Observer: observer, Authenticate: auth.Middleware(auth.MiddlewareConfig{
			Sessions: auth.New(auth.Config{DataPlanes: store, Now: now}),
		})},
	})
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- changes.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ran)
		server.Close()
	})

	c := &controlPlane{
		t: t, environ: []string{"AIKEYS_DATABASE_URL=" + database}, alice: s.As(aikeystest.Owner).Token,
		provider: gatewaytest.StartProvider(t, gatewaytest.WithoutRecords()),
	}
	replica := &process{t: t}
	replica.address.API = s.URL
	first := c.register(replica)
	keys, g := []string{first}, c.startGateway(server.URL, "--max-stale=5s")
	g.awaitAnswer(first)
	began := time.Now()
	for _, by := range []time.Duration{time.Hour, -time.Hour, 0} {
		step.Store(int64(by))
		newer := c.register(replica)
		keys = append(keys, newer)
		g.awaitAnswer(newer)
		require.Equal(t, "complete", c.revoke(replica, newer, "10s").State)
		completed := time.Now()
		g.awaitAnswer(first)
		require.NotContains(t, g.answers(completed, time.Now()), newer)
		require.Equal(t, http.StatusOK, g.awaitReady().readyz().status)
	}
	require.Subset(t, keys, g.answers(began, time.Now()), "no request failed")
}
