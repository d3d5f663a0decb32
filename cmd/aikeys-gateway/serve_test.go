package main

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	"github.com/agentrouter/aikeys/internal/filereload/filereloadtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

// providerSecret is the key that the provider of these tests accepts.
const providerSecret = "sk-EXAMPLE-EXAMPLE-0001"

// world is a provider, and a control plane that has its key for a caller.
type world struct {
	provider *gatewaytest.Provider
	control  *dataplanetest.ControlPlane
	key      string
}

func newWorld(t *testing.T, options ...gatewaytest.Option) world {
	t.Helper()
	w := world{provider: gatewaytest.StartProvider(t, append(options, gatewaytest.Accepting(providerSecret))...), control: dataplanetest.NewControlPlane(t)}
	w.key = w.control.RegisterKey(dataplanetest.Key{Provider: "openai", Secret: providerSecret, BaseURL: w.provider.URL + "/v1"})
	w.control.AddCredential(callerToken, dataplanetest.Credential{})
	return w
}

func TestServeBecomesReadyServesAndStops(t *testing.T) {
	w := newWorld(t)
	s := startGateway(t, environOf(t, w.control.URL()), "--forward-auth-listen", "127.0.0.1:0", "--ext-authz-listen", "127.0.0.1:0").awaitReady()
	require.JSONEq(t, `{"ready":true,"state":"ok"}`, s.readyz().body)
	require.Equal(t, http.StatusOK, send(t, http.MethodGet, s.ops+"/healthz", "").status)

	got := send(t, http.MethodGet, s.url+"/openai/models", callerToken)
	require.Equal(t, http.StatusOK, got.status, got.body)
	require.Equal(t, w.key, got.header.Get("Agentrouter-Key-Id"))
	require.Equal(t, http.StatusUnauthorized, send(t, http.MethodGet, s.url+"/openai/models", "ak_other").status)
	w.provider.RequireNeverSaw(t, callerToken)

	asked := send(t, http.MethodGet, s.forwardAuth+"/auth/openai", callerToken)
	require.Equal(t, http.StatusOK, asked.status)
	require.Equal(t, "Bearer "+providerSecret, asked.header.Get("Authorization"))
	require.Equal(t, "Bearer "+providerSecret, checkByGRPC(t, s.extAuthz))

	w.control.RevokeKey(w.key)
	s.eventually("the revoked key serves no more", func() bool {
		return send(t, http.MethodGet, s.url+"/openai/models", callerToken).status == http.StatusForbidden
	})
	metrics := send(t, http.MethodGet, s.ops+"/metrics", "").body
	for _, name := range []string{"aikeys_gateway_requests_total", "aikeys_dataplane_", "go_goroutines", "process_open_fds"} {
		require.Contains(t, metrics, name)
	}
	require.Equal(t, exitOK, s.end())
	require.Contains(t, s.said.String(), `"msg":"stopped"`)
	for where, text := range map[string]string{"the log": s.said.String(), "metrics": metrics, "standard output": s.standardOutput.String()} {
		for _, secret := range []string{providerSecret, callerToken, dataplanetest.Token} {
			require.NotContains(t, text, secret, where)
		}
	}
}

// checkByGRPC asks as Envoy does, and returns the header that it is to set.
func checkByGRPC(t *testing.T, address string) string {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	answer, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		ContextExtensions: map[string]string{"provider": "openai"},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Headers: map[string]string{"authorization": "Bearer " + callerToken},
		}},
	}})
	require.NoError(t, err)
	headers := answer.GetOkResponse().GetHeaders()
	require.Len(t, headers, 1)
	return headers[0].GetHeader().GetValue()
}

func TestServeWithoutControlPlane(t *testing.T) {
	w := newWorld(t)
	w.control.Down()
	s := startGateway(t, environOf(t, w.control.URL()))
	models := func() int { return send(t, http.MethodGet, s.url+"/openai/models", callerToken).status }
	require.Equal(t, http.StatusServiceUnavailable, models())
	require.JSONEq(t, `{"ready":false,"state":"no_lease"}`, s.readyz().body)
	require.Equal(t, http.StatusOK, send(t, http.MethodGet, s.ops+"/healthz", "").status, "it lives")
	for range 2 {
		w.control.Up()
		s.awaitReady()
		s.eventually("it serves", func() bool { return models() == http.StatusOK })
		w.control.Down()
		s.eventually("it refuses", func() bool { return models() == http.StatusServiceUnavailable })
		s.eventually("and says so", func() bool { return s.readyz().status == http.StatusServiceUnavailable })
	}
	require.Equal(t, exitOK, s.end())
}

func TestStalenessGrace(t *testing.T) {
	w := newWorld(t)
	s := startGateway(t, environOf(t, w.control.URL()), "--max-stale", "1h").awaitReady()
	models := func() int { return send(t, http.MethodGet, s.url+"/openai/models", callerToken).status }
	require.Equal(t, http.StatusOK, models())
	w.control.Down()
	time.Sleep(2 * time.Second) // nobody looks while the lease runs out
	s.eventually("the lease is over", func() bool { return strings.Contains(s.readyz().body, `"stale"`) })
	require.Equal(t, http.StatusOK, s.readyz().status)
	require.Equal(t, http.StatusOK, models())
	require.Equal(t, exitOK, s.end())
}

// While the control plane does not allow the gateway's grace, the gateway is not ready, logs why, and fetches for each request.
func TestGraceAboveTheControlPlanesLimit(t *testing.T) {
	w := newWorld(t)
	w.control.LimitMaxStale(5 * time.Minute)
	s := startGateway(t, environOf(t, w.control.URL()), "--max-stale", "1h")
	s.eventually("it says so", func() bool { return s.readyz().body == `{"ready":false,"state":"too_stale"}`+"\n" })
	require.Equal(t, http.StatusServiceUnavailable, s.readyz().status)
	require.Contains(t, s.said.String(), "must be at most 300000")
	require.Contains(t, s.said.String(), "lower it here, or raise the control plane's --max-stale-limit")
	require.Equal(t, http.StatusOK, send(t, http.MethodGet, s.url+"/openai/models", callerToken).status)
	w.control.LimitMaxStale(time.Hour)
	s.awaitReady()
	require.Equal(t, exitOK, s.end())
}

func TestCredentialIsReloaded(t *testing.T) {
	w := newWorld(t)
	w.control.SetToken("dp_EXAMPLE_second")
	environ := environOf(t, w.control.URL())
	s := startGateway(t, environ)
	s.eventually("the old one is refused", func() bool { return strings.Contains(s.readyz().body, `"refused"`) })
	file := strings.TrimPrefix(environ[3], "AIKEYS_GATEWAY_TOKEN_FILE=")
	require.NoError(t, os.WriteFile(file, []byte("dp_EXAMPLE_second\n"), 0o600))
	s.awaitReady()
	require.Equal(t, exitOK, s.end())
	require.NotContains(t, s.said.String(), "dp_EXAMPLE")
}

func TestForwardAuthAsksForItsSecret(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("opensesame\n"), 0o600))
	s := startGateway(t, environOf(t, w.control.URL()), "--forward-auth-listen", "127.0.0.1:0", "--forward-auth-secret-file", file).awaitReady()
	require.Equal(t, http.StatusForbidden, send(t, http.MethodGet, s.forwardAuth+"/auth/openai", callerToken).status)
	asked := send(t, http.MethodGet, s.forwardAuth+"/auth/openai", callerToken, "Agentrouter-Forward-Auth", "opensesame")
	require.Equal(t, http.StatusOK, asked.status)
	require.Equal(t, exitOK, s.end())
}

func TestCallersOverTLS(t *testing.T) {
	w := newWorld(t)
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	s := startGateway(t, environOf(t, w.control.URL()), "--tls-cert", certificate.CertFile, "--tls-key", certificate.KeyFile).awaitReady()
	require.Regexp(t, `^https://`, s.url)
	trusting := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12}}
	got, err := trySend(t.Context(), trusting, http.MethodGet, s.url+"/openai/models", callerToken)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, exitOK, s.end())
}

func TestUpstreamsReplaceProviders(t *testing.T) {
	w := newWorld(t)
	elsewhere := gatewaytest.StartProvider(t, gatewaytest.Accepting(providerSecret))
	s := startGateway(t, environOf(t, w.control.URL()), "--upstream", "openai="+elsewhere.URL+"/v1").awaitReady()
	require.Equal(t, http.StatusOK, send(t, http.MethodGet, s.url+"/openai/models", callerToken).status)
	require.Len(t, elsewhere.Requests(), 1)
	require.Empty(t, w.provider.Requests())
	require.Equal(t, exitOK, s.end())
}

// streamBody asks for a streamed answer.
const streamBody = `{"model":"gpt-test","stream":true,"messages":[{"role":"user","content":"hi"}]}`

// openStream begins a streamed request and returns once its head has come; what follows can be read.
func openStream(t *testing.T, s *served) io.Reader {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.url+"/openai/chat/completions", strings.NewReader(streamBody))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+callerToken)
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	require.Equal(t, http.StatusOK, response.StatusCode)
	return response.Body
}

func TestShutdownFinishesStreams(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, gatewaytest.ReleasedBy(release))
	s := startGateway(t, environOf(t, w.control.URL())).awaitReady()
	stream := openStream(t, s)
	s.stop()
	s.eventually("readiness ends", func() bool { return strings.Contains(s.readyz().body, `"draining"`) })
	close(release)
	text, err := io.ReadAll(stream)
	require.NoError(t, err)
	require.Contains(t, string(text), "[DONE]")
	require.Equal(t, exitOK, s.wait())
}

func TestShutdownTimeoutEndsStreams(t *testing.T) {
	w := newWorld(t, gatewaytest.ReleasedBy(make(chan struct{})))
	s := startGateway(t, environOf(t, w.control.URL()), "--shutdown-timeout", "100ms").awaitReady()
	openStream(t, s)
	require.Equal(t, exitFailure, s.end())
	require.Contains(t, s.said.String(), "aikeys-gateway: requests in flight were cut after 100ms")
}

func TestPortInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	got := runGateway(t, environOf(t, "http://127.0.0.1:1"), "serve", "--ops-listen", listener.Addr().String())
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "choose another address with --ops-listen or AIKEYS_GATEWAY_OPS_LISTEN")
}

func TestProcess(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "aikeys-gateway")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	release := make(chan struct{})
	w := newWorld(t, gatewaytest.ReleasedBy(release))

	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String()+" stops it in order", func(t *testing.T) {
			cmd, s := launchGateway(t, binary, environOf(t, w.control.URL()))
			require.NoError(t, cmd.Process.Signal(signal))
			require.NoError(t, cmd.Wait(), "exit code 0")
			require.Contains(t, s.said.String(), `"msg":"stopped"`)
		})
	}
	t.Run("a second signal ends it at once", func(t *testing.T) {
		cmd, s := launchGateway(t, binary, environOf(t, w.control.URL()))
		openStream(t, s)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		s.eventually("the first is heard", func() bool { return strings.Contains(s.said.String(), "stopping") })
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.Error(t, cmd.Wait())
		require.NotContains(t, s.said.String(), `"msg":"stopped"`)
	})
	close(release)
}

// launchGateway starts the program as a process of its own, and returns once it is ready.
func launchGateway(t *testing.T, binary string, environ []string) (*exec.Cmd, *served) {
	t.Helper()
	s := &served{t: t, said: &lockedBuffer{}, exited: make(chan struct{})}
	cmd := exec.CommandContext(t.Context(), binary, "serve")
	cmd.Env, cmd.Stderr = environ, s.said
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // unless the test has ended it
		_ = cmd.Wait()
	})
	s.eventually("listening", s.readAddresses)
	return cmd, s.awaitReady()
}

func TestNoGoroutinesAfterExit(t *testing.T) {
	w := newWorld(t)
	before := goleak.IgnoreCurrent()
	s := startGateway(t, environOf(t, w.control.URL()), "--forward-auth-listen", "127.0.0.1:0", "--ext-authz-listen", "127.0.0.1:0").awaitReady()
	require.Equal(t, http.StatusOK, send(t, http.MethodGet, s.url+"/openai/models", callerToken).status)
	require.Equal(t, exitOK, s.end())
	goleak.VerifyNone(t, before)
}

func TestTokenFileIsReadAgain(t *testing.T) {
	file, log := tokenFile(t, "dp_first"), &lockedBuffer{}
	s := &service{log: newLog(log)}
	token, err := s.openText("credential", file, readCredential)
	require.NoError(t, err)
	filereloadtest.ReplaceAfterFailure(t, file, []byte("dp_the-second"), func() bool {
		require.Equal(t, "dp_first", token())
		return strings.Contains(log.String(), "the file must hold one word")
	})
	require.Eventually(t, func() bool { return token() == "dp_the-second" }, 5*time.Second, 10*time.Millisecond)
	require.Contains(t, log.String(), `"msg":"a file has changed and was read again","what":"credential"`)
	require.NotContains(t, log.String(), "dp_")
}
