package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/filereload/filereloadtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestServeBecomesReadyServesAndStops(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.start().AwaitReady()
	require.JSONEq(t, `{"ready":true,"state":"ok"}`, p.Readyz().Body)
	require.Equal(t, http.StatusOK, programtest.Send(http.MethodGet, p.URL("ops")+"/healthz", "", "").Status)

	got := listModels(p)
	require.Equal(t, http.StatusOK, got.Status, got.Body)
	require.Equal(t, e.key, got.Header.Get("Agentrouter-Key-Id"))
	require.Equal(t, http.StatusUnauthorized, programtest.Send(http.MethodGet, p.URL("gateway")+"/openai/models", "ak_other", "").Status)
	e.provider.RequireNeverSaw(t, callerToken)
	e.control.RevokeKey(e.key)
	p.Await("refused", func() bool { return listModels(p).Status == http.StatusForbidden })

	metrics := programtest.Send(http.MethodGet, p.URL("ops")+"/metrics", "", "").Body
	for _, name := range []string{"aikeys_gateway_requests_total", "aikeys_dataplane_", "go_goroutines", "process_open_fds"} {
		require.Contains(t, metrics, name)
	}
	require.Equal(t, cli.ExitOK, p.End(syscall.SIGTERM))
	require.Contains(t, p.Output(), `"msg":"stopped"`)
	for where, text := range map[string]string{"output": p.Output(), "metrics": metrics} {
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
	require.Equal(t, http.StatusServiceUnavailable, listModels(p).Status)
	require.JSONEq(t, `{"ready":false,"state":"no_lease"}`, p.Readyz().Body)
	require.Equal(t, http.StatusOK, programtest.Send(http.MethodGet, p.URL("ops")+"/healthz", "", "").Status, "it lives")
	for range 2 {
		e.control.Up()
		p.AwaitReady()
		p.Await("served", func() bool { return listModels(p).Status == http.StatusOK })
		e.control.Down()
		p.Await("refused", func() bool { return listModels(p).Status == http.StatusServiceUnavailable })
		p.Await("not ready", func() bool { return p.Readyz().Status == http.StatusServiceUnavailable })
	}
}

// openStream asks a gateway for a streamed answer, and returns once it has begun.
func openStream(t *testing.T, gateway *programtest.Process, token string) (status int, body io.ReadCloser) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gateway.URL("gateway")+"/openai/chat/completions",
		strings.NewReader(`{"model":"gpt-test","stream":true,"messages":[{"role":"user","content":"hi"}]}`))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	return response.StatusCode, response.Body
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	t.Run("requests in flight end", func(t *testing.T) {
		t.Parallel()
		release := make(chan struct{})
		p := newEnv(t, gatewaytest.ReleasedBy(release)).start().AwaitReady()
		_, stream := openStream(t, p, callerToken)
		p.Signal(syscall.SIGINT)
		p.Await("draining", func() bool { return strings.Contains(p.Readyz().Body, `"draining"`) })
		close(release)
		text, err := io.ReadAll(stream)
		require.NoError(t, err)
		require.Contains(t, string(text), "[DONE]")
		require.Equal(t, cli.ExitOK, p.Wait())
	})
	t.Run("requests that take too long are cut", func(t *testing.T) {
		t.Parallel()
		p := newEnv(t, gatewaytest.ReleasedBy(make(chan struct{}))).start("--shutdown-timeout", "100ms").AwaitReady()
		openStream(t, p, callerToken)
		require.Equal(t, cli.ExitFailure, p.End(syscall.SIGTERM))
		require.Contains(t, p.Output(), "aikeys-gateway: requests in flight were cut after 100ms")
	})
	t.Run("a second signal ends it at once", func(t *testing.T) {
		t.Parallel()
		p := newEnv(t, gatewaytest.ReleasedBy(make(chan struct{}))).start().AwaitReady()
		openStream(t, p, callerToken)
		p.Signal(syscall.SIGTERM)
		p.AwaitLog("stopping")
		require.NotEqual(t, cli.ExitOK, p.End(syscall.SIGTERM))
		require.NotContains(t, p.Output(), `"msg":"stopped"`)
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

// A newer key replaces the first key. When the newer key is revoked, the first key serves again. No request fails in
// between. Within a lease, gateways refuse removed members and revoked API keys.
func TestChangesReachGateways(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		first := c.register(replica)
		bob, _ := c.addBob(replica)
		spare := c.run("admin token create --customer acme --project chat --user alice")
		caching := c.startProbed(replica.URL("dataplane"), "--max-stale=5s")
		fetching := c.startProbed(replica.URL("dataplane"), "--cache-size=1", c.alice, bob) // nearly each request is a fetch
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

		g := c.startProbed(replica.URL("dataplane"), "--max-stale=5s --failed-auth-limit=0", spare)
		g.awaitAnswer(first)
		c.run("admin token revoke --customer acme --project chat --id " + strings.Split(spare, "_")[1])
		revoked := time.Now()
		time.Sleep(time.Until(revoked.Add(lease + margin)))
		g.awaitAnswer(http.StatusText(http.StatusUnauthorized))
		require.Equal(t, []string{http.StatusText(http.StatusUnauthorized)}, g.answers(revoked.Add(lease+margin), time.Now()))

		g = c.startProbed(replica.URL("dataplane"), "--max-stale=5s", bob)
		g.awaitAnswer(first)
		var removal struct{ Receipt pub.Receipt }
		got := programtest.Send(http.MethodDelete, replica.URL("api")+projectPath+"/members/bob?wait=10s", c.alice, "")
		removed := time.Now()
		require.NoError(t, json.Unmarshal([]byte(got.Body), &removal), got.Body)
		require.Equal(t, []any{"complete", 4, 4}, []any{removal.Receipt.State, removal.Receipt.DataPlanes, removal.Receipt.Acknowledged})
		g.awaitAnswer(http.StatusText(http.StatusForbidden))
		require.Equal(t, []string{http.StatusText(http.StatusForbidden)}, g.answers(removed, time.Now()), "from the receipt on")
		require.Equal(t, http.StatusOK, programtest.Send(http.MethodPost, replica.URL("api")+projectPath+"/members/bob/restore", c.alice, "").Status)
		g.awaitAnswer(first)
		require.Subset(t, keys, caching.answers(began, time.Now()), "no request failed")
	})
}

// No gateway can acknowledge a revocation: two follow a replica that hangs, one is stopped, one was killed. The receipt
// is complete when all their leases have run out. From then on no request gets the key, even if the gateways continue.
func TestReceiptOfUnreachableGateways(t *testing.T) {
	t.Parallel()
	const maxStale = 2 * time.Second
	c := newControlPlane(t, modelstest.EnginePostgres.URL(t))
	hanging, other := c.start(), c.start()
	older, newer := c.register(other), c.register(other)
	strict, stale := c.startProbed(hanging.URL("dataplane"), ""), c.startProbed(hanging.URL("dataplane"), "--max-stale=2s")
	stopped, killed := c.startProbed(other.URL("dataplane"), "--max-stale=2s"), c.startProbed(other.URL("dataplane"), "--max-stale=2s")
	for _, g := range []*probedGateway{strict, stale, stopped, killed} {
		g.awaitAnswer(newer)
	}
	t.Cleanup(func() { hanging.Signal(syscall.SIGCONT) })

	began := time.Now()
	hanging.Signal(syscall.SIGSTOP)
	stopped.Signal(syscall.SIGSTOP)
	killed.End(syscall.SIGKILL)
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
	hanging.Signal(syscall.SIGCONT)
	stopped.Signal(syscall.SIGCONT)

	again := c.startProbed(other.URL("dataplane"), "--max-stale=2s")
	for _, g := range []*probedGateway{strict, stale, stopped, again} {
		g.awaitAnswer(older)
		require.NotContains(t, g.answers(completed, time.Now()), newer)
	}
	require.NotContains(t, strict.answers(began.Add(lease+margin), time.Now()), newer)
	require.Equal(t, []string{unavailable}, strict.answers(began.Add(lease+margin), continued))
	require.Equal(t, []string{newer}, stale.answers(began, began.Add(maxStale)))
	for _, g := range []*probedGateway{strict, stale, stopped} {
		g.AwaitReady()
	}
	last := c.revoke(other, older, "10s")
	require.Equal(t, []any{"complete", 4}, []any{last.State, last.Acknowledged}, "all follow changes as before")
}

// A control plane's process is killed right after it has confirmed a revocation, in one case before it could send the
// event. Its gateways resume at another process and miss nothing. If the other process is already running, the gateways
// refuse no request.
func TestControlPlaneIsKilled(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		serving := c.start()
		var target atomic.Pointer[url.URL] // of the load balancer between gateways and control plane
		balance := func(to *programtest.Process) {
			address, err := url.Parse(to.URL("dataplane"))
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
		strict, stale := c.startProbed(balancer.URL, ""), c.startProbed(balancer.URL, "--max-stale=5s")
		stale.awaitAnswer(older)
		began := time.Now()
		for _, frozen := range []bool{false, true} {
			// A stream that was replaced counts until its lease ends.
			for end := time.Now().Add(programtest.Patience); c.revoke(serving, c.register(serving), "0s").DataPlanes != 2; {
				require.True(t, time.Now().Before(end))
			}
			newer := c.register(serving)
			strict.awaitAnswer(newer)
			stale.awaitAnswer(newer)
			asked, next := serving, (*programtest.Process)(nil)
			if e == modelstest.EnginePostgres { // on SQLite there is one process at a time
				next = c.start()
				asked = next
				if frozen {
					serving.Signal(syscall.SIGSTOP)
				}
			}
			require.Equal(t, 2, c.revoke(asked, newer, "0s").DataPlanes)
			answered := time.Now()
			if next != nil {
				balance(next)
			}
			serving.End(syscall.SIGKILL)
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

// PostgreSQL crashes and restarts, and later is away for 3 s. While it is away, revocations fail. A gateway without a
// grace refuses requests when its lease has ended. A gateway with a grace refuses none.
func TestDatabaseOutage(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t)
	c := newControlPlane(t, cluster.URL("postgres"))
	replica := c.start()
	older, newer := c.register(replica), c.register(replica)
	strict, stale := c.startProbed(replica.URL("dataplane"), ""), c.startProbed(replica.URL("dataplane"), "--max-stale=20s")
	stale.awaitAnswer(newer)
	began := time.Now()
	for _, mode := range []modelstest.StopMode{modelstest.Immediate, modelstest.Fast} {
		require.NoError(t, cluster.Stop(mode))
		stopped := time.Now()
		if mode == modelstest.Fast {
			got := programtest.Send(http.MethodDelete, replica.URL("api")+"/v1/aikeys/"+newer, c.alice, "")
			require.Equal(t, http.StatusServiceUnavailable, got.Status, got.Body)
			require.NotEmpty(t, got.Header.Get("Retry-After"))
			time.Sleep(time.Until(stopped.Add(3 * time.Second))) // the outage
			require.Equal(t, []string{unavailable}, strict.answers(stopped.Add(lease+margin), time.Now()))
		}
		require.NoError(t, cluster.Start())
		strict.AwaitReady()
		strict.awaitAnswer(newer)
	}
	stale.AwaitReady()
	// A stream that was replaced during an outage counts until its lease and its grace end. Keys of another provider serve no request here.
	unused := `{"provider":"anthropic","name":"unused","secret":"sk-ant-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"}`
	for end := time.Now().Add(3 * programtest.Patience); c.revoke(replica, c.call(replica, http.MethodPost, "", unused).Key.ID, "0s").DataPlanes != 2; {
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
	p := e.start("--max-stale", "1h").AwaitReady()
	require.Equal(t, http.StatusOK, listModels(p).Status)
	e.control.Down()
	p.Await("stale", func() bool { return strings.Contains(p.Readyz().Body, `"stale"`) })
	require.Equal(t, http.StatusOK, p.Readyz().Status)
	require.Equal(t, http.StatusOK, listModels(p).Status)
}

// While the control plane does not allow the gateway's grace, the gateway is not ready, logs why, and fetches for each request.
func TestGraceAboveTheControlPlanesLimit(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.control.LimitMaxStale(5 * time.Minute)
	p := e.start("--max-stale", "1h")
	p.Await("too stale", func() bool { return p.Readyz().Body == `{"ready":false,"state":"too_stale"}`+"\n" })
	require.Equal(t, http.StatusServiceUnavailable, p.Readyz().Status)
	p.AwaitLog("must be at most 300000")
	p.AwaitLog("lower it here, or raise the control plane's --max-stale-limit")
	require.Equal(t, http.StatusOK, listModels(p).Status)
	e.control.LimitMaxStale(time.Hour)
	p.AwaitReady()
}

func TestCredentialIsReloaded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "edge.token")
	require.NoError(t, os.WriteFile(file, []byte(dataplanetest.Token), 0o600))
	e, second := newEnv(t), "dp_EXAMPLE_SECOND__SECOND_"
	e.control.SetToken(second)
	p := e.start("--token-file", file)
	p.Await("refused", func() bool { return strings.Contains(p.Readyz().Body, `"refused"`) })
	filereloadtest.ReplaceAfterFailure(t, file, []byte(second), func() bool {
		return strings.Contains(p.Output(), "the file must hold one word")
	})
	p.AwaitReady()
	p.AwaitLog(`"msg":"a file has changed and was read again","what":"credential"`)
	require.NotContains(t, p.Output(), "dp_")
}

func TestForwardAuthAsksForItsSecret(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("opensesame\n"), 0o600))
	p := newEnv(t).start("--forward-auth-listen", "127.0.0.1:0", "--forward-auth-secret-file", file).AwaitReady()
	require.Equal(t, http.StatusForbidden, programtest.Send(http.MethodGet, p.URL("forward_auth")+"/auth/openai", callerToken, "").Status)
	got := programtest.Send(http.MethodGet, p.URL("forward_auth")+"/auth/openai", callerToken, "",
		"Agentrouter-Forward-Auth", "opensesame", "X-Original-Uri", "/openai/chat/completions")
	require.Equal(t, http.StatusOK, got.Status)
	require.Equal(t, "Bearer "+providerSecret, got.Header.Get("Authorization"))
}

// Only processes of the users that the operator names get answers on the sockets.
func TestProxiesOnUnixSockets(t *testing.T) {
	t.Parallel()
	p := newEnv(t).startForProxies("--auth-socket-users", "65534")
	path := strings.TrimPrefix(p.URL("forward_auth"), "unix:")
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
	p.AwaitLog(`"client":"192.0.2.7"`) // the proxy is trusted to name it
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
		"--tls-cert", own.CertFile, "--tls-key", own.KeyFile, "--auth-client-ca", proxies.Write(t, filepath.Join(t.TempDir(), "ca.pem"))).AwaitReady()
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
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL("forward_auth")+"/auth/openai", http.NoBody)
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
			conn, err := grpc.NewClient(p.URL("ext_authz"), grpc.WithTransportCredentials(credentials.NewTLS(client)))
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
	p := e.start("--cors-origins", "https://chat.example.com,http://localhost:3000").AwaitReady()
	preflight := []string{"Origin", "http://localhost:3000", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization"}
	got := programtest.Send(http.MethodOptions, p.URL("gateway")+"/openai/chat/completions", "", "", preflight...)
	require.Equal(t, http.StatusNoContent, got.Status, "without a credential")
	require.Equal(t, "http://localhost:3000", got.Header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, e.provider.Requests())
	for credential, status := range map[string]int{callerToken: http.StatusOK, "ak_wrong": http.StatusUnauthorized} {
		got = programtest.Send(http.MethodGet, p.URL("gateway")+"/openai/models", credential, "", "Origin", "https://chat.example.com")
		require.Equal(t, status, got.Status)
		require.Equal(t, "https://chat.example.com", got.Header.Get("Access-Control-Allow-Origin"))
	}
	closed := e.start().AwaitReady()
	got = programtest.Send(http.MethodOptions, closed.URL("gateway")+"/openai/chat/completions", "", "", preflight...)
	require.Equal(t, http.StatusUnauthorized, got.Status)
	require.NotContains(t, got.Header, "Access-Control-Allow-Origin")
}

func TestCallersOverTLS(t *testing.T) {
	t.Parallel()
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	p := newEnv(t).start("--tls-cert", certificate.CertFile, "--tls-key", certificate.KeyFile).AwaitReady()
	require.Regexp(t, `^https://`, p.URL("gateway"))
	trusting := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12},
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL("gateway")+"/openai/models", http.NoBody)
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
	p := e.start("--upstream", "openai="+elsewhere.URL+"/v1").AwaitReady()
	require.Equal(t, http.StatusOK, listModels(p).Status)
	require.Len(t, elsewhere.Requests(), 1)
	require.Empty(t, e.provider.Requests())
}

// If an authority of the operator has signed a provider's certificate, a gateway reaches the provider only with
// --upstream-ca.
func TestUpstreamsOfOtherAuthorities(t *testing.T) {
	t.Parallel()
	e := newEnv(t, gatewaytest.WithTLS())
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.provider.Certificate().Raw}), 0o600))
	require.Equal(t, http.StatusOK, listModels(e.start("--upstream-ca", file).AwaitReady()).Status)
	served := len(e.provider.Requests())
	require.Equal(t, http.StatusBadGateway, listModels(e.start().AwaitReady()).Status)
	require.Len(t, e.provider.Requests(), served)
}

// A gateway's credential is its certificate. With it, the gateway fetches keys, follows changes and acknowledges them
// until the data plane is revoked. It still does so after the certificate was replaced and the first certificate has
// expired.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	c, authority, own := newControlPlane(t, modelstest.EnginePostgres.URL(t)), tlsfilestest.NewAuthority(t), tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	plain := c.start()
	secure := c.start("AIKEYS_TLS_CERT="+own.CertFile, "AIKEYS_TLS_KEY="+own.KeyFile, "AIKEYS_DATAPLANE_CLIENT_CA="+authority.Write(t, filepath.Join(t.TempDir(), "ca.crt")))
	older, newer := c.register(plain), c.register(plain)
	admit := "admin dataplane create --name edge --customer acme --certificate uri:spiffe://acme/edge"
	require.Empty(t, c.run(admit), "there is no token")
	startWith := func(certificate tlsfilestest.Certificate) *programtest.Process {
		return start(t, gatewayEnviron(t, secure.URL("dataplane"), "")[:4], os.Args[0], "serve", "--control-plane-ca", own.CertFile,
			"--client-cert", certificate.CertFile, "--client-key", certificate.KeyFile, "--upstream", "openai="+c.upstream)
	}
	issue := func(dir, name string, expires time.Time) tlsfilestest.Certificate {
		return authority.Issue(t, dir, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/" + name}}
			c.NotAfter = expires
		})
	}
	dir, expires, later := t.TempDir(), time.Now().Truncate(time.Second).Add(5*time.Second), time.Now().Add(time.Hour)
	p := startWith(issue(dir, "edge", expires)).AwaitReady()
	serving := func() string {
		return programtest.Send(http.MethodGet, p.URL("gateway")+"/openai/models", c.alice, "").Header.Get("Agentrouter-Key-Id")
	}
	require.Equal(t, newer, serving())
	issue(dir, "edge", later)
	for time.Now().Before(expires.Add(500 * time.Millisecond)) {
		require.Equal(t, newer, serving(), "before the first certificate expires, and after")
	}
	revoked := c.revoke(plain, newer, "10s")
	require.Equal(t, []any{"complete", 1}, []any{revoked.State, revoked.DataPlanes})
	require.Equal(t, older, serving())
	p.Await("revocations are acknowledged, with a stream by the new certificate", func() bool {
		return c.revoke(plain, c.register(plain), "10s").Acknowledged == 1
	})
	p.AwaitLog(`"msg":"a file has changed and was read again","what":"client certificate"`)

	refused := func(p *programtest.Process) {
		p.Await("refused", func() bool { return strings.Contains(p.Readyz().Body, `"refused"`) })
	}
	c.run("admin dataplane revoke --name edge")
	refused(p)
	p.Await("without a key", func() bool { return serving() == "" })
	c.run(admit)
	p.AwaitReady()
	require.Equal(t, older, serving(), "the name is another data plane's now")
	refused(startWith(issue(t.TempDir(), "nobody", later)))
	require.Equal(t, cli.ExitOK, p.End(syscall.SIGTERM))
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
	t.Cleanup(server.Close)
	replica := programtest.Program(func(ctx context.Context, _, _ []string, stdout, _ io.Writer) (code int) {
		fmt.Fprintf(stdout, "listening api=%s\n", s.URL)
		if changes.Run(ctx) != nil {
			code = cli.ExitFailure
		}
		return code
	}).Start(t, nil)

	provider := gatewaytest.StartProvider(t, gatewaytest.WithoutRecords())
	c := &controlPlane{
		t: t, environ: []string{"AIKEYS_DATABASE_URL=" + database}, alice: s.As(aikeystest.Owner).Token,
		provider: provider, upstream: provider.URL + "/v1", customer: "acme",
	}
	first := c.register(replica)
	keys, g := []string{first}, c.startProbed(server.URL, "--max-stale=5s")
	g.awaitAnswer(first)
	began := time.Now()
	for _, by := range []time.Duration{time.Hour, -time.Hour, 0} {
		step.Store(int64(by))
		newer := c.register(replica)
		keys = append(keys, newer)
		g.awaitAnswer(newer)
		// The API's own feed does not run, so a request that waited would wait until the lease has run out.
		g.Await("the receipt is complete", func() bool { return c.revoke(replica, newer, "0s").State == "complete" })
		completed := time.Now()
		g.awaitAnswer(first)
		require.NotContains(t, g.answers(completed, time.Now()), newer)
		require.Equal(t, http.StatusOK, g.AwaitReady().Readyz().Status)
	}
	require.Subset(t, keys, g.answers(began, time.Now()), "no request failed")
	require.Equal(t, cli.ExitOK, replica.Stop())
}

// answerWithStreams has providers answer with streams of events, or with WebSockets that echo, until the gateway hangs up.
func (c *controlPlane) answerWithStreams() {
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			websocket.Server{Handler: func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }}.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: word\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	c.t.Cleanup(provider.Close)
	c.upstream = provider.URL + "/v1"
}

// openSocket opens a WebSocket, and returns when one message has gone there and back.
func (c *controlPlane) openSocket(gateway *programtest.Process) *websocket.Conn {
	c.t.Helper()
	cfg, err := websocket.NewConfig(strings.Replace(gateway.URL("gateway"), "http", "ws", 1)+"/openai/realtime", "http://localhost/")
	require.NoError(c.t, err)
	cfg.Header.Set("Authorization", "Bearer "+c.alice)
	socket, err := cfg.DialContext(c.t.Context())
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = socket.Close() })
	var echo string
	require.NoError(c.t, websocket.Message.Send(socket, "word"))
	require.NoError(c.t, websocket.Message.Receive(socket, &echo))
	return socket
}

func TestReceiptShowsTheRequestsInFlight(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("opensesame"), 0o600))
	for _, engine := range modelstest.Engines() {
		c := newControlPlane(t, engine.URL(t))
		replica := c.start()
		key := c.register(replica)
		c.answerWithStreams()
		edge := c.startGateway(replica.URL("dataplane"), "edge", "--stream-grace", "1h")
		c.startGateway(replica.URL("dataplane"), "idle")
		forProxies := c.startGateway(replica.URL("dataplane"), "for-proxies", "--forward-auth-listen", "127.0.0.1:0", "--forward-auth-secret-file", secret)
		for _, gateway := range []*programtest.Process{edge, edge, forProxies} {
			status, _ := openStream(t, gateway, c.alice)
			require.Equal(t, http.StatusOK, status)
		}
		socket := c.openSocket(edge)
		receipt := c.revoke(replica, key, "30s")
		require.Equal(t, "complete", receipt.State)
		require.Equal(t, []int{3, 3}, []int{receipt.DataPlanes, receipt.Acknowledged})
		require.Equal(t, []*int{new(3), new(2)}, []*int{receipt.InFlight, receipt.InFlightFrom})
		require.Equal(t, []pub.Acknowledgement{
			{DataPlane: "edge", Acknowledged: 1, InFlight: new(3), InFlightFrom: new(1)},
			{DataPlane: "for-proxies", Acknowledged: 1},
			{DataPlane: "idle", Acknowledged: 1, InFlight: new(0), InFlightFrom: new(1)},
		}, receipt.Acknowledgements)
		require.NoError(t, socket.SetDeadline(time.Now().Add(30*time.Second)))
		_, err := io.Copy(io.Discard, socket)
		require.NoError(t, err, "the WebSocket is closed")
	}
}

// A gateway whose credential is revoked serves nobody, whatever its grace is. Its open streams end as the streams of a
// revoked key do.
func TestRevokedDataPlaneEndsItsStreams(t *testing.T) {
	t.Parallel()
	c := newControlPlane(t, modelstest.EngineSQLite.URL(t))
	replica := c.start()
	c.register(replica)
	c.answerWithStreams()
	revoked := c.startGateway(replica.URL("dataplane"), "revoked", "--max-stale", "5m", "--stream-grace", "100ms")
	untouched := c.startGateway(replica.URL("dataplane"), "untouched")
	_, events := openStream(t, revoked, c.alice)
	socket := c.openSocket(revoked)
	others := c.openSocket(untouched)
	c.run("admin dataplane revoke --name revoked")
	require.NoError(t, socket.SetDeadline(time.Now().Add(30*time.Second)))
	_, err := io.Copy(io.Discard, socket)
	require.NoError(t, err, "the WebSocket is closed")
	_, err = io.Copy(io.Discard, events)
	require.Error(t, err, "the caller sees that the answer is not whole")
	require.Equal(t, http.StatusServiceUnavailable, programtest.Send(http.MethodGet, revoked.URL("gateway")+"/openai/models", c.alice, "").Status)
	require.Contains(t, revoked.Readyz().Body, `"refused"`)
	var echo string
	require.NoError(t, websocket.Message.Send(others, "word"))
	require.NoError(t, websocket.Message.Receive(others, &echo))
}

func TestGatewaysShareALimitAsTheyComeAndGo(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		key := c.register(replica)
		limit := func(limits string) { c.call(replica, http.MethodPatch, "/"+key, `{"limit":`+limits+`}`) }
		limit(`{"concurrent":10}`)
		c.answerWithStreams()
		var gateways []*programtest.Process
		for _, name := range []string{"one", "two", "three"} {
			gateways = append(gateways, c.startGateway(replica.URL("dataplane"), name))
		}
		awaitShares := func(want int) {
			t.Helper()
			deadline := time.Now().Add(programtest.Patience)
			for _, gateway := range gateways {
				for open := -1; open != want; {
					require.True(t, time.Now().Before(deadline), "its share is %d, not %d", open, want)
					var streams []io.ReadCloser // until the gateway refuses one
					for status := http.StatusOK; status == http.StatusOK; {
						var stream io.ReadCloser
						status, stream = openStream(t, gateway, c.alice)
						streams = append(streams, stream)
						require.Less(t, len(streams), 50)
					}
					open = len(streams) - 1
					text, err := io.ReadAll(streams[open])
					require.NoError(t, err)
					require.Contains(t, string(text), "/problems/key-limited")
					for _, stream := range streams {
						_ = stream.Close()
					}
				}
			}
		}
		awaitShares(3)
		gateways[2].End(syscall.SIGTERM)
		gateways = gateways[:2]
		awaitShares(5)
		limit(`{"concurrent":1}`)
		awaitShares(1)
		limit(`{"concurrent":null,"requests_per_day":6}`)
		awaitShares(0) // each has served more today
	})
}

func TestTheNextKeyServesWhileTheFirstIsLimited(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		var limited atomic.Value // the credential of the first request
		provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			limited.CompareAndSwap(nil, r.Header.Get("Authorization"))
			if r.Header.Get("Authorization") == limited.Load() {
				w.Header().Set("Retry-After", "300")
				w.WriteHeader(http.StatusTooManyRequests)
			}
		}))
		t.Cleanup(provider.Close)
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		next, first := c.register(replica), c.register(replica)
		policy := programtest.Send(http.MethodPut, replica.URL("api")+"/v1/customers/-/projects/-/policy", c.alice, `{"on_limited":"next_key"}`)
		require.Equal(t, http.StatusOK, policy.Status, policy.Body)
		c.upstream = provider.URL + "/v1"
		gateway := c.startGateway(replica.URL("dataplane"), "edge")
		requireServed := func(status int, key, reason string) {
			t.Helper()
			got := programtest.Send(http.MethodPost, gateway.URL("gateway")+"/openai/chat/completions", c.alice, "{}")
			require.Equal(t, []any{status, key, reason}, []any{got.Status, got.Header.Get("Agentrouter-Key-Id"), got.Header.Get("Agentrouter-Reason")}, got.Body)
		}
		requireServed(http.StatusTooManyRequests, first, "project_key")
		requireServed(http.StatusOK, next, "next_key_limited")
		requireServed(http.StatusOK, next, "next_key_limited")
		gateway.AwaitLog(`"key_id":"` + next + `","reason":"next_key_limited"`)
		require.Equal(t, "complete", c.revoke(replica, next, "10s").State)
		requireServed(http.StatusTooManyRequests, first, "project_key")
	})
}

// The control plane has announced a rotation, and dies before the gateway has the new version.
func TestARotationOutlivesItsControlPlane(t *testing.T) {
	t.Parallel()
	const second = "sk-EXAMPLE-EXAMPLE-0002"
	e := newEnv(t)
	e.provider.Accept(second)
	p := e.start("--max-stale", "1h").AwaitReady()
	require.Equal(t, http.StatusOK, listModels(p).Status)
	hold := e.control.HoldRequests()
	tx := e.control.RotateKeyWithin(e.key, second, time.Hour)
	hold.Wait() // the gateway has read the event
	e.control.Down()
	for range 3 {
		require.Equal(t, http.StatusOK, listModels(p).Status)
	}
	require.False(t, e.control.Acknowledged(tx))
	hold.Release()
	e.control.Up()
	p.Await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	e.provider.Reject(providerSecret, http.StatusUnauthorized)
	require.Equal(t, http.StatusOK, listModels(p).Status)
}

// The link to the control plane breaks in a different way each time: before the rotation, right after it, and only for
// fetches. The provider refuses a secret as soon as the receipt says that it may be deleted.
func TestRotationsUnderLoadWhileTheLinkIsCut(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		target, err := url.Parse(replica.URL("dataplane"))
		require.NoError(t, err)
		var broken atomic.Pointer[string] // the beginning of the paths that are not served
		proxy := &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
		link := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if paths := broken.Load(); paths != nil && strings.HasPrefix(r.URL.Path, *paths) {
				panic(http.ErrAbortHandler) // cuts the connection
			}
			proxy.ServeHTTP(w, r)
		}))
		link.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(link.Close)
		cut := func(paths string) {
			broken.Store(&paths)
			link.CloseClientConnections()
		}

		key := c.register(replica)
		gateway := c.startGateway(link.URL, "edge", "--max-stale", "20s")
		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		var answered [4]atomic.Int64
		failures := make(chan programtest.Reply, len(answered))
		for i := range answered {
			load.Go(func() {
				for ctx.Err() == nil {
					if got := programtest.Send(http.MethodGet, gateway.URL("gateway")+"/openai/models", c.alice, ""); got.Status != http.StatusOK {
						failures <- got
						return
					}
					answered[i].Add(1)
				}
			})
		}
		defer load.Wait()
		defer stop()
		settle := func() { // waits until each request that has begun is answered
			for i := range answered {
				from := answered[i].Load()
				gateway.Await("answered", func() bool { return answered[i].Load() > from || len(failures) > 0 })
			}
		}
		settle()

		old := ""
		for round, paths := range []string{"/", "/", "/v1/fetch"} {
			secret := fmt.Sprintf("sk-EXAMPLE-rotated-%d-%d", round, time.Now().UnixNano())
			c.provider.Accept(secret)
			if round != 1 {
				cut(paths)
			}
			pending := c.call(replica, http.MethodPost, "/"+key+"/rotate", `{"activate":"now","secret":"`+secret+`"}`)
			cut(paths)
			settle()
			if round == 0 {
				require.Equal(t, "pending", pending.Receipt.State)
			}
			cut("nothing")
			// A stream whose hello was lost with its connection is counted until its lease and grace have ended.
			require.Eventually(t, func() bool {
				return c.call(replica, http.MethodPost, fmt.Sprintf("/%s/versions/%d/activate?wait=5s", key, round+2), "").Receipt.State == "complete"
			}, 3*programtest.Patience, time.Millisecond)
			settle()
			if old != "" {
				c.provider.Reject(old, http.StatusUnauthorized)
			}
			old = secret
			settle()
		}
		require.Empty(t, failures)
	})
}

// The gateway reports that the provider refuses the new version, and the service activates the previous version again.
func TestARefusedRotationIsRolledBackByItself(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		key := c.register(replica)
		gateway := c.startGateway(replica.URL("dataplane"), "edge")
		isServed := func() bool {
			return programtest.Send(http.MethodGet, gateway.URL("gateway")+"/openai/models", c.alice, "").Status == http.StatusOK
		}
		require.True(t, isServed())
		c.call(replica, http.MethodPost, "/"+key+"/rotate", `{"activate":"now","secret":"sk-EXAMPLE-EXAMPLE-refused"}`)
		events := func() string {
			return programtest.Send(http.MethodGet, replica.URL("api")+"/v1/customers/-/projects/-/events?type=key.rotation_rolled_back", c.alice, "").Body
		}
		gateway.Await("refused", func() bool { return !isServed() })
		gateway.Await("rolled back", func() bool { return strings.Contains(events(), key) })
		require.Contains(t, events(), `"reason":"rejected"`)
		require.Equal(t, 1, *c.call(replica, http.MethodGet, "/"+key, "").Key.Version)
		gateway.Await("served by the version before", isServed)
	})
}

// Each step of a rotation and several other changes are tested. aikeysd is killed while it handles the request, and
// again after it has answered the repeated request.
func TestRotationsSurviveTheKillOfAikeysd(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		key := c.register(replica)
		restart := func() {
			replica.End(syscall.SIGKILL)
			replica = c.start()
		}
		states := func() (all []string) {
			var listed pub.VersionsResponse
			got := programtest.Send(http.MethodGet, replica.URL("api")+"/v1/aikeys/"+key+"/versions", c.alice, "")
			require.NoError(t, json.Unmarshal([]byte(got.Body), &listed), got.Body)
			for _, v := range listed.Versions {
				all = append(all, v.State)
			}
			return all
		}
		keyPath, leaked := "/v1/aikeys/"+key, c.call(replica, http.MethodPost, "", `{"provider":"openai","name":"leaked","secret":"sk-EXAMPLE-EXAMPLE-leaked"}`).Key.ID
		name := func() []string { return []string{c.call(replica, http.MethodGet, "/"+key, "").Key.Name} }
		leakedState := func() []string { return []string{c.call(replica, http.MethodGet, "/"+leaked, "").Key.State} }
		bob, bobs := c.addBob(replica)
		bobSees := func() []string {
			return []string{http.StatusText(programtest.Send(http.MethodGet, replica.URL("api")+"/v1/aikeys/"+bobs, bob, "").Status)}
		}
		for i, step := range []struct {
			method, path, body string
			show               func() []string
			want               []string
		}{
			{http.MethodPost, keyPath + "/rotate", `{"activate":"manual","secret":"sk-EXAMPLE-EXAMPLE-second"}`, states, []string{"pending", "active"}},
			{http.MethodPost, keyPath + "/versions/2/activate", "", states, []string{"active", "retiring"}},
			{http.MethodPost, keyPath + "/rotate", `{"activate":"now","secret":"sk-EXAMPLE-EXAMPLE-third"}`, states, []string{"active", "retiring", "destroyed"}},
			{http.MethodPost, keyPath + "/rollback", "", states, []string{"retiring", "active", "destroyed"}},
			{http.MethodDelete, keyPath + "/versions/3", "", states, []string{"destroyed", "active", "destroyed"}},
			{http.MethodPatch, keyPath, `{"name":"renamed"}`, name, []string{"renamed"}},
			{http.MethodPost, projectPath + "/leaks", `{"values":["sk-EXAMPLE-EXAMPLE-leaked"],"revoke":true}`, leakedState, []string{"revoked"}},
			{http.MethodDelete, projectPath + "/members/bob", "", bobSees, []string{http.StatusText(http.StatusForbidden)}},
			{http.MethodPost, projectPath + "/members/bob/restore", "", bobSees, []string{http.StatusText(http.StatusOK)}},
		} {
			before := step.show()
			ask := func(api string) programtest.Reply {
				return programtest.Send(step.method, api+step.path, c.alice, step.body,
					"Content-Type", "application/json", "Idempotency-Key", fmt.Sprintf("step-%d", i))
			}
			answered, api := make(chan programtest.Reply, 1), replica.URL("api")
			go func() { answered <- ask(api) }()
			restart()
			if (<-answered).Status == http.StatusOK {
				require.Equal(t, step.want, step.show(), "it was acknowledged")
			} else {
				require.Contains(t, [][]string{before, step.want}, step.show(), "it was made, or not")
			}
			again := ask(replica.URL("api"))
			if again.Status != http.StatusNotFound || !strings.Contains(step.path, "/members/") { // 404: there is nobody left
				require.Equal(t, http.StatusOK, again.Status, again.Body)
			}
			restart()
			require.Equal(t, step.want, step.show())
		}
		c.call(replica, http.MethodPost, "/"+key+"/rotate", `{"activate":"now","secret":"sk-EXAMPLE-EXAMPLE-fourth","overlap":"1s"}`)
		removed := programtest.Send(http.MethodDelete, replica.URL("api")+projectPath+"/members/bob?grace_days=0", c.alice, "")
		require.Equal(t, http.StatusOK, removed.Status, removed.Body)
		restart()
		replica.Await("destroyed when the overlap has ended", func() bool {
			return slices.Equal([]string{"active", "destroyed", "destroyed", "destroyed"}, states())
		})
		c.run("admin member set --customer acme --project chat --user bob --role member")
		bob = c.run("admin token create --customer acme --project chat --user bob")
		replica.Await("destroyed after the grace", func() bool {
			return strings.Contains(programtest.Send(http.MethodGet, replica.URL("api")+"/v1/aikeys/"+bobs, bob, "").Body, `"state":"revoked"`)
		})
	})
}

// tester is a provider that gets the requests that test keys.
type tester struct {
	*httptest.Server
	tested, madeUp  atomic.Int32  // requests with the test's keys, and with other keys
	arrived, answer chan struct{} // of requests with the key sk-good-slow
}

// startTester starts a provider that accepts the keys that begin with sk-good, or any.
func startTester(t *testing.T, acceptsAny bool) *tester {
	s := &tester{arrived: make(chan struct{}, 1), answer: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, count := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")+r.Header.Get("X-Api-Key"), &s.madeUp
		if strings.Contains(key, "-EXAMPLE") {
			count = &s.tested
		}
		count.Add(1)
		if strings.HasPrefix(key, "sk-good-slow") {
			s.arrived <- struct{}{}
			<-s.answer
		}
		if r.URL.Path != "/v1/models" || !acceptsAny && !strings.HasPrefix(key, "sk-good") {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// ask returns the answer to a request about a key: the status, and the verdict with its reason.
func (c *controlPlane) ask(replica *programtest.Process, method, path, body string) string {
	c.t.Helper()
	got := programtest.Send(method, replica.URL("api")+"/v1/aikeys"+path, c.alice, body)
	var answer struct {
		Key     pub.Key
		Version pub.KeyVersion
	}
	require.NoError(c.t, json.Unmarshal([]byte(got.Body), &answer), got.Body)
	text := fmt.Sprint(got.Status)
	if v := cmp.Or(answer.Version.Verification, answer.Key.Verification); v != nil {
		text += " " + v.Verdict
		if v.Reason != nil {
			text += " " + *v.Reason
		}
	}
	return text
}

// registration returns the body of a register request. If verify is set, the service tests the key.
func registration(provider, secret string, verify bool) string {
	return fmt.Sprintf(`{"provider":%q,"name":"key %d","secret":"%s-EXAMPLE-EXAMPLE","verify":%t}`, provider, time.Now().UnixNano(), secret, verify)
}

// If there are two replicas, the request waits at one, and the data planes are connected to the other.
func TestDataPlanesTestKeys(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c, provider := newControlPlane(t, e.URL(t)), startTester(t, false)
		closed := httptest.NewServer(nil)
		closed.Close()
		c.upstream = provider.URL + "/v1"
		upstream := []string{"--upstream", "groq=" + closed.URL, "--upstream-allow", "127.0.0.1"}
		public := c.start("AIKEYS_VERIFY=data_plane")
		private := public
		if e == modelstest.EnginePostgres {
			private = c.start("AIKEYS_VERIFY=data_plane")
		}
		c.startGateway(private.URL("dataplane"), "untrusted", append(upstream, "--key-tests=false")...)
		others := *c
		others.customer = "globex"
		others.startGateway(private.URL("dataplane"), "others", upstream...)
		require.Equal(t, "201 unreachable no_data_plane", c.ask(public, http.MethodPost, "", registration("openai", "sk-good-0", true)))
		require.Zero(t, provider.tested.Load())

		gateways := []*programtest.Process{
			c.startGateway(private.URL("dataplane"), "edge-1", upstream...), c.startGateway(private.URL("dataplane"), "edge-2", upstream...),
		}
		require.Equal(t, "201 valid", c.ask(public, http.MethodPost, "", registration("openai", "sk-good-1", true)))
		require.Equal(t, "422", c.ask(public, http.MethodPost, "", registration("openai", "sk-bad-1", true)))
		good, bad := c.call(public, http.MethodPost, "", registration("openai", "sk-good-2", false)).Key.ID, c.call(public, http.MethodPost, "", registration("openai", "sk-bad-2", false)).Key.ID
		require.Equal(t, "200 valid", c.ask(public, http.MethodPost, "/"+good+"/verify", ""))
		require.Equal(t, "200 rejected", c.ask(public, http.MethodPost, "/"+bad+"/verify", ""))
		require.Equal(t, "200 valid", c.ask(public, http.MethodPost, "/"+good+"/rotate", `{"secret":"sk-good-3-EXAMPLE-EXAMPLE"}`))
		require.Equal(t, "422", c.ask(public, http.MethodPost, "/"+good+"/rotate", `{"secret":"sk-bad-3-EXAMPLE-EXAMPLE"}`))
		require.Equal(t, int32(6), provider.tested.Load(), "one data plane makes each test")
		require.Equal(t, "201 unreachable no_connection", c.ask(public, http.MethodPost, "", registration("groq", "gsk_EXAMPLE-4", true)))

		// Servers of the customer's own, of which one accepts any key.
		strict, lax := startTester(t, false), startTester(t, true)
		for slug, flags := range map[string]string{
			"x-strict": "--base-url " + strict.URL + "/v1", "x-lax": "--base-url " + lax.URL + "/v1", "x-anthropic": "--dialect anthropic --auth header --header X-Api-Key --base-url " + strict.URL,
			"x-open": "--auth none --base-url " + lax.URL + "/v1", "x-private": "--base-url http://127.0.0.2:" + strict.URL[strings.LastIndex(strict.URL, ":")+1:] + "/v1",
		} {
			c.run("admin provider create --customer acme --slug " + slug + " " + flags)
		}
		for _, tc := range [][3]string{
			{"x-strict", "sk-good-x", "201 valid"}, {"x-strict", "sk-bad-x", "422"}, {"x-anthropic", "sk-good-x", "201 valid"}, {"x-anthropic", "sk-bad-x", "422"},
			{"x-lax", "sk-good-x", "201 unreachable any_key"}, {"x-private", "sk-good-x", "201 unreachable no_connection"},
		} {
			require.Equal(t, tc[2], c.ask(public, http.MethodPost, "", registration(tc[0], tc[1], true)), "%s %s", tc[0], tc[1])
		}
		require.Equal(t, []int32{1, 1, 4, 2}, []int32{lax.tested.Load(), lax.madeUp.Load(), strict.tested.Load(), strict.madeUp.Load()})
		untested := c.call(public, http.MethodPost, "", registration("x-lax", "sk-good-y", false)).Key.ID
		require.Equal(t, "200 unreachable any_key", c.ask(public, http.MethodPost, "/"+untested+"/verify", ""))
		require.Equal(t, "201 unreachable unsupported",
			c.ask(public, http.MethodPost, "", `{"provider":"x-open","name":"open","secret":"none","verify":true}`))

		// The data plane that has claimed the test dies.
		done := make(chan string, 1)
		go func() { done <- c.ask(public, http.MethodPost, "", registration("openai", "sk-good-slow", true)) }()
		<-provider.arrived
		logged := ""
		for _, gateway := range gateways {
			gateway.End(syscall.SIGKILL)
			logged += gateway.Output()
		}
		require.Contains(t, logged, "tested a key for the control plane")
		require.NotContains(t, logged, "EXAMPLE")
		close(provider.answer)
		require.Equal(t, "201 unreachable timeout", <-done)
		for _, replica := range []*programtest.Process{public, private} {
			require.NotContains(t, replica.Output(), "EXAMPLE")
		}
	})
}
