package gateway_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

func trusting(certificate *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return pool
}

// counted returns how many requests the metrics tell of.
func (r *rig) counted(t testing.TB, provider, status string) int {
	t.Helper()
	families, err := r.registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := metric.GetLabel()
			if family.GetName() == "aikeys_gateway_requests_total" && labels[0].GetValue() == provider && labels[1].GetValue() == status {
				return int(metric.GetCounter().GetValue())
			}
		}
	}
	return 0
}

func TestEveryRefusalHasItsAnswer(t *testing.T) {
	cases := map[error]struct {
		status int
		code   string
	}{
		dataplane.ErrCallerUnauthenticated:    {401, "caller_unauthenticated"},
		dataplane.ErrNotMember:                {403, "not_a_member"},
		dataplane.ErrKeyRevoked:               {403, "key_revoked"},
		dataplane.ErrCustomerNotServed:        {403, "customer_not_served"},
		dataplane.ErrNoKey:                    {403, "no_key"},
		dataplane.ErrUserKeyRequired:          {403, "user_key_required"},
		dataplane.ErrInvalid:                  {404, "unknown_provider"},
		dataplane.ErrUnsupportedAuth:          {501, "unsupported_auth"},
		dataplane.ErrUnavailable:              {503, "unavailable"},
		dataplane.ErrDataPlaneUnauthenticated: {503, "gateway_unauthenticated"},
		context.DeadlineExceeded:              {503, "unavailable"},
		errors.New("anything"):                {500, "internal"},
	}
	for err, want := range cases {
		t.Run(want.code, func(t *testing.T) {
			gw := start(t, refusing(fmt.Errorf("with MARKED text: %w", err)))
			res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
			problem := problemOf(t, res, body)
			require.Equal(t, want.status, problem.Status)
			require.Equal(t, want.code, problem.Error.Code)
			require.Equal(t, want.status == 503, res.Header.Get("Retry-After") == "1")
			require.Contains(t, gw.log.String(), problem.RequestID)
			requireNoSecrets(t, body, gw.log.String())
			require.Empty(t, gw.reported())
		})
	}
}

func TestPathsAndMethodsThatAreRefused(t *testing.T) {
	gw := openAI(t, func(http.ResponseWriter, *http.Request) { t.Error("the provider was asked") })
	cases := []struct {
		line string
		code string
	}{
		{"GET / HTTP/1.1", "unknown_provider"},
		{"GET //evil.example/x HTTP/1.1", "unknown_provider"},
		{"GET /OpenAI/x HTTP/1.1", "unknown_provider"},
		{"GET /open%61i%2f/x HTTP/1.1", "unknown_provider"},
		{"GET /openai/../admin HTTP/1.1", "unsafe_path"},
		{"GET /openai/%2e%2e/admin HTTP/1.1", "unsafe_path"},
		{"GET /openai//evil.example/ HTTP/1.1", "unsafe_path"},
		{`GET /openai/..\admin HTTP/1.1`, "unsafe_path"},
		{"GET http://evil.example/openai/..%2fadmin HTTP/1.1", "unsafe_path"},
		{"TRACE /openai/chat HTTP/1.1", "method_not_allowed"},
		{"trace /openai/chat HTTP/1.1", "method_not_allowed"},
		{"TRACK /openai/chat HTTP/1.1", "method_not_allowed"},
		{"CONNECT evil.example:443 HTTP/1.1", "method_not_allowed"},
	}
	for _, tc := range cases {
		t.Run(tc.line, func(t *testing.T) {
			res, body := raw(t, gw.URL, tc.line+"\r\nHost: gw\r\nConnection: close\r\nAuthorization: Bearer "+callersKey+"\r\n\r\n")
			require.Equal(t, tc.code, problemOf(t, res, body).Error.Code)
		})
	}
	r := request(t, "GET", gw.URL+"/openai/models", nil)
	r.Header.Set("Agentrouter-Project", "a/b")
	res, body := do(t, r)
	require.Equal(t, "invalid_project", problemOf(t, res, body).Error.Code)
	require.Empty(t, gw.asked(), "no key was looked for")
	require.NotContains(t, gw.log.String(), "evil")
	requireNoSecrets(t, gw.log.String())
}

// raw sends text that a client of Go's would not.
func raw(t testing.TB, gatewayURL, text string) (head answer, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(gatewayURL, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	return read(t, res)
}

func TestAProviderThatCannotBeReachedIsABadGateway(t *testing.T) {
	for name, tc := range map[string]struct {
		base, code, cause string
		timeout           time.Duration
	}{
		"nobody listens": {closedPort(t), "provider_unreachable", "connection refused", time.Minute},
		"it is no HTTP":  {babbling(t), "provider_unreachable", "answer not understood", time.Minute},
		"it is silent": {provider(t, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}), "provider_timeout", "timeout", 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			transport := gateway.NewTransport(gateway.TransportConfig{ResponseHeaderTimeout: tc.timeout})
			gw := start(t, serving(newKey(t, "openai", dataplane.AuthBearer, tc.base, secret)),
				func(cfg *gateway.Config) { cfg.Transport = transport })
			res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
			require.Equal(t, tc.code, problemOf(t, res, body).Error.Code)
			require.Contains(t, gw.log.String(), tc.cause)
			require.Contains(t, gw.log.String(), keyID)
			requireNoSecrets(t, body, gw.log.String())
		})
	}
}

func closedPort(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	return "http://" + listener.Addr().String()
}

// babbling answers with what was sent to it, and so with the key.
func babbling(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				fmt.Fprintf(conn, "%s\r\n\r\n", r.Header.Get("Authorization"))
			}
			_ = conn.Close()
		}
	}()
	return "http://" + listener.Addr().String()
}

func TestKeysGoToSafeDestinationsAndInHeadersAlone(t *testing.T) {
	for base, code := range map[string]string{
		"http://api.example.com": "unsafe_destination",
		"https://u:p@x.example":  "unsafe_destination",
		":":                      "unsafe_destination",
	} {
		gw := start(t, serving(newKey(t, "openai", dataplane.AuthBearer, base, secret)))
		res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
		require.Equal(t, code, problemOf(t, res, body).Error.Code)
	}
	asked := false
	base := provider(t, func(http.ResponseWriter, *http.Request) { asked = true })
	gw := start(t, serving(newKey(t, "bedrock", dataplane.AuthAWSSigV4, base, secret)))
	res, body := do(t, request(t, "POST", gw.URL+"/bedrock/model", strings.NewReader("{}")))
	require.Equal(t, "unsupported_auth", problemOf(t, res, body).Error.Code)
	require.False(t, asked)
}

func TestAPanicIsAnInternalErrorAndTellsNothing(t *testing.T) {
	gw := start(t, &fakeResolver{resolve: func(dataplane.Request) (*dataplane.Key, error) { panic("MARKED") }})
	res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
	require.Equal(t, "internal", problemOf(t, res, body).Error.Code)
	require.Contains(t, gw.log.String(), "stack")
	requireNoSecrets(t, body, gw.log.String())
}

func TestRequestsOverTheBoundAreRefused(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	gw := openAI(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}, func(cfg *gateway.Config) { cfg.MaxConcurrent = 1 })
	first := make(chan int)
	r := request(t, "GET", gw.URL+"/openai/models", nil)
	go func() {
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Error(err)
			close(first)
			return
		}
		_ = res.Body.Close()
		first <- res.StatusCode
	}()
	<-arrived
	res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
	require.Equal(t, "overloaded", problemOf(t, res, body).Error.Code)
	close(release)
	require.Equal(t, 200, <-first)
}
