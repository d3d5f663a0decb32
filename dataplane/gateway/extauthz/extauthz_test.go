package extauthz_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/dataplane/gateway/extauthz"
)

const (
	callersKey = "ak_01M83VVAHV8M2T5K7N9R4W1XYZ_MARKED-CALLERS-OWN"
	secret     = "sk-MARKED-PROVIDER-SECRET"
	places     = 6 // for connections to the server
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves on a socket until stop; ended then has the result of Serve.
func start(t *testing.T, resolver gateway.Resolver, limit ...float64) (conn *grpc.ClientConn, log *dataplanetest.Log, stop func(), ended <-chan error) {
	t.Helper()
	log = new(dataplanetest.Log)
	cfg := gateway.Config{Log: log.Logger()}
	if len(limit) > 0 {
		cfg.FailedAuthLimit = limit[0]
	}
	server, err := extauthz.New(resolver, cfg)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- extauthz.Serve(ctx, listener, server, extauthz.ServeConfig{MaxConnections: places}) }()
	conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
	})
	return conn, log, cancel, result
}

func check(t *testing.T, conn *grpc.ClientConn, provider, path string, header map[string]string) *authv3.CheckResponse {
	t.Helper()
	return checkAs(t, conn, "POST", provider, path, header)
}

func checkAs(t *testing.T, conn *grpc.ClientConn, method, provider, path string, header map[string]string) *authv3.CheckResponse {
	t.Helper()
	return checkFor(t, conn, map[string]string{"provider": provider}, method, path, header)
}

// checkFor checks a request on a route with context extensions.
func checkFor(t *testing.T, conn *grpc.ClientConn, extensions map[string]string, method, path string, header map[string]string) *authv3.CheckResponse {
	t.Helper()
	request := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		ContextExtensions: extensions,
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: "192.0.2.1"},
		}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: method, Path: path, Headers: header,
		}},
	}}
	response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), request)
	require.NoError(t, err)
	return response
}

func fields(options []*corev3.HeaderValueOption) map[string]string {
	found := map[string]string{}
	for _, option := range options {
		found[option.GetHeader().GetKey()] = option.GetHeader().GetValue()
	}
	return found
}

func TestCheckHeaders(t *testing.T) {
	for style, want := range map[dataplane.AuthStyle][2]string{
		dataplane.AuthBearer:      {"authorization", "Bearer " + secret},
		dataplane.AuthXAPIKey:     {"x-api-key", secret},
		dataplane.AuthXGoogAPIKey: {"x-goog-api-key", secret},
		dataplane.AuthAPIKey:      {"api-key", secret},
	} {
		conn, log, _, _ := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", style, "https://p.example", secret)))
		for _, sent := range []map[string]string{
			{"authorization": "Bearer " + callersKey, "agentrouter-project": "chat", "cookie": "a=b"},
			{"x-api-key": callersKey, "agentrouter-project": "chat", "cookie": "a=b"},
		} {
			response := check(t, conn, "openai", "/v1/chat/completions", sent)
			require.EqualValues(t, codes.OK, response.GetStatus().GetCode())
			ok := response.GetOkResponse()
			require.Equal(t, map[string]string{want[0]: want[1]}, fields(ok.GetHeaders()))
			require.Equal(t, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, ok.GetHeaders()[0].GetAppendAction())
			remove := []string{"agentrouter-project", "cookie"}
			for _, name := range []string{"authorization", "x-api-key", "x-goog-api-key", "api-key"} {
				if name != want[0] {
					remove = append(remove, name)
				}
			}
			require.ElementsMatch(t, remove, ok.GetHeadersToRemove())
			require.Equal(t, dataplanetest.NewKeyID, fields(ok.GetResponseHeadersToAdd())["agentrouter-key-id"])
			require.Equal(t, dataplanetest.NewKeyID, response.GetDynamicMetadata().GetFields()["key_id"].GetStringValue())
		}
		response := checkFor(t, conn, map[string]string{"provider": "openai", "credential": "metadata"}, "POST", "/v1/chat/completions",
			map[string]string{"authorization": "Bearer " + callersKey, "x-forwarded-proto": "https"})
		require.Equal(t, secret, response.GetDynamicMetadata().GetFields()["secret_for_openai"].GetStringValue())
		require.Empty(t, response.GetOkResponse().GetHeaders(), "the key is in no header")
		require.ElementsMatch(t, []string{"authorization", "x-api-key", "x-goog-api-key", "api-key"}, response.GetOkResponse().GetHeadersToRemove(),
			"Envoy needs X-Forwarded-Proto to match a route again")
		response = checkFor(t, conn, map[string]string{"provider": "openai", "credential": "header"}, "POST", "/v1/chat/completions",
			map[string]string{"authorization": "Bearer " + callersKey})
		require.EqualValues(t, http.StatusInternalServerError, response.GetDeniedResponse().GetStatus().GetCode(), "no route is configured so")
		require.NotContains(t, log.String(), "MARKED")
		require.Contains(t, log.String(), dataplanetest.NewKeyID)
	}
}

func TestCheckRemovesGeminiKeyFromTheQuery(t *testing.T) {
	conn, _, _, _ := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "gemini", dataplane.AuthXGoogAPIKey, "https://p.example", secret)))
	for query, names := range map[string][]string{
		"?alt=sse&key=" + callersKey:                                   {"key"},
		"?%6bey=" + callersKey + "&alt=sse":                            {"%6bey"},
		"?k%65y=" + callersKey + "&key=" + callersKey + "&%4Bey=other": {"k%65y", "key", "%4Bey"},
		"?key=" + callersKey + "&key=" + callersKey + "&key":           {"key"},
		"?key=" + callersKey + "&trace=" + callersKey:                  {"key", "trace"},
	} {
		response := check(t, conn, "gemini", "/v1beta/models/m:generateContent"+query, nil)
		require.Equal(t, names, response.GetOkResponse().GetQueryParametersToRemove(), query)
	}
}

func TestCheckRemovesCredentialFromTheQuery(t *testing.T) {
	conn, _, _, _ := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, "https://p.example", secret)))
	ask := func(query string) []string {
		response := check(t, conn, "openai", "/v1/models"+query, map[string]string{"x-api-key": callersKey})
		return response.GetOkResponse().GetQueryParametersToRemove()
	}
	require.Empty(t, ask("?key=theirs&limit=1"), "only Gemini takes a key there")
	require.Equal(t, []string{"debug"}, ask("?limit=1&debug=x-"+callersKey))
}

func TestCheckReadsRawHeaders(t *testing.T) {
	conn, _, _, _ := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, "https://p.example", secret)))
	ask := func(values ...string) codes.Code {
		headers := &corev3.HeaderMap{}
		for _, value := range values {
			headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: "x-api-key", RawValue: []byte(value)})
		}
		response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			ContextExtensions: map[string]string{"provider": "openai"},
			Request:           &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{HeaderMap: headers}},
		}})
		require.NoError(t, err)
		return codes.Code(response.GetStatus().GetCode())
	}
	require.Equal(t, codes.OK, ask(callersKey))
	require.Equal(t, codes.Unauthenticated, ask(callersKey, "ak_01M8H8236WYX8787KJMGSKFAWB_x_y"))
}

func TestCheckRefusals(t *testing.T) {
	for _, tc := range []struct {
		err      error
		provider string
		status   int
		code     codes.Code
	}{
		{dataplane.ErrCallerUnauthenticated, "openai", 401, codes.Unauthenticated},
		{dataplane.ErrNoKey, "openai", 403, codes.PermissionDenied},
		{dataplane.ErrUnavailable, "openai", 503, codes.Unavailable},
		{dataplane.ErrUnsupportedAuth, "openai", 501, codes.Unimplemented},
		{errors.New("MARKED"), "openai", 500, codes.Internal},
		{nil, "", 500, codes.Internal},
		{nil, "Open AI", 404, codes.NotFound},
	} {
		conn, log, _, _ := start(t, dataplanetest.Refusing(tc.err))
		response := check(t, conn, tc.provider, "/x", map[string]string{"x-api-key": callersKey})
		require.Equal(t, tc.code, codes.Code(response.GetStatus().GetCode()))
		denied := response.GetDeniedResponse()
		require.EqualValues(t, tc.status, denied.GetStatus().GetCode())
		var problem gateway.Problem
		require.NoError(t, json.Unmarshal([]byte(denied.GetBody()), &problem))
		require.Equal(t, tc.status, problem.Status)
		require.Equal(t, "application/problem+json", fields(denied.GetHeaders())["content-type"])
		require.Equal(t, problem.RequestID, fields(denied.GetHeaders())["x-request-id"])
		require.NotContains(t, response.String()+log.String(), "MARKED")
	}
}

func TestRefusalsAreInTheDialectOfTheRoute(t *testing.T) {
	conn, _, _, _ := start(t, dataplanetest.Refusing(dataplane.ErrNoKey))
	for path, want := range map[string]string{
		"/gemini/v1beta/models/m:generateContent": `"status":"PERMISSION_DENIED"`,
		"/gemini/v1beta/openai/chat/completions":  `"code":"no_key"`,
		"/v1beta/openai/chat/completions":         `"code":"no_key"`,
	} {
		denied := check(t, conn, "gemini", path, map[string]string{"x-api-key": callersKey}).GetDeniedResponse()
		require.Contains(t, denied.GetBody(), want, path)
		require.Equal(t, strings.Contains(path, "openai"), fields(denied.GetHeaders())["content-type"] == "application/problem+json")
	}
}

// checkFrom is a check of a request with a bad credential from a client's address.
func checkFrom(client string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		ContextExtensions: map[string]string{"provider": "openai"},
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: client},
		}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Headers: map[string]string{"x-api-key": "bad"}}},
	}}
}

// Envoy sends the client's address itself.
func TestFailuresCountByEnvoysClientAddress(t *testing.T) {
	conn, _, _, _ := start(t, dataplanetest.Serving(callersKey, nil), 1)
	ask := func(client string) int32 {
		response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), checkFrom(client))
		require.NoError(t, err)
		return int32(response.GetDeniedResponse().GetStatus().GetCode())
	}
	require.EqualValues(t, 401, ask("192.0.2.1"))
	require.EqualValues(t, 429, ask("192.0.2.1"))
	require.EqualValues(t, 401, ask("192.0.2.2"))
}

func TestPanicIsARefusal(t *testing.T) {
	conn, log, _, _ := start(t, dataplanetest.NewFakeResolver(func(dataplane.Request) (*dataplane.Key, error) { panic("MARKED") }))
	response := check(t, conn, "openai", "/x", map[string]string{"x-api-key": callersKey})
	require.EqualValues(t, 500, response.GetDeniedResponse().GetStatus().GetCode())
	require.NotContains(t, response.String()+log.String(), "MARKED")
}

func TestServe(t *testing.T) {
	conn, _, stop, ended := start(t, dataplanetest.Serving(callersKey, nil))
	healthy, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, healthy.GetStatus())
	_, err = authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		ContextExtensions: map[string]string{"x": strings.Repeat("x", 1<<20)},
	}})
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	stop()
	require.NoError(t, <-ended)
}

func TestStopBeforeServeHasBegunIsNoFailure(t *testing.T) {
	server, err := extauthz.New(dataplanetest.Refusing(nil), gateway.Config{})
	require.NoError(t, err)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for range 100 { // either may come first
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, extauthz.Serve(stopped, listener, server, extauthz.ServeConfig{}))
	}
}

func TestIdleConnectionsKeepNoEnvoyOut(t *testing.T) {
	conn, log, _, _ := start(t, dataplanetest.Serving(callersKey,
		dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, "https://p.example", secret)))
	dials := 0
	envoy, err := grpc.NewClient(conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			dials++
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}))
	require.NoError(t, err)
	defer func() { require.NoError(t, envoy.Close()) }()
	ask := func(conn *grpc.ClientConn) {
		t.Helper()
		response := check(t, conn, "openai", "/v1/chat/completions", map[string]string{"x-api-key": callersKey})
		require.NotNil(t, response.GetOkResponse())
	}
	ask(envoy)
	var strangers []net.Conn
	for range 4 * places {
		idle, err := net.Dial("tcp", conn.Target())
		require.NoError(t, err)
		t.Cleanup(func() { _ = idle.Close() })
		strangers = append(strangers, idle)
	}
	ask(conn)                                // a newcomer
	_, _ = io.Copy(io.Discard, strangers[0]) // until the server closes the connection
	ask(envoy)
	require.Equal(t, 1, dials, "its connection has stayed open")
	require.Contains(t, log.String(), "connections were closed for newcomers")
}

func TestTheFacesOfAProcessCountFailuresTogether(t *testing.T) {
	resolver := dataplanetest.Serving(callersKey, nil)
	const proxy, forwardAuth, extAuthz = "proxy", "forward-auth", "ext_authz"
	ask := func(cfg gateway.Config) map[string]func() int {
		cfg.Resolver, cfg.Log, cfg.FailedAuthLimit = resolver, slog.New(slog.DiscardHandler), 1
		over := func(handler http.Handler, err error) func() int {
			require.NoError(t, err)
			return func() int {
				r := httptest.NewRequest(http.MethodGet, "/auth/openai", nil) // from 192.0.2.1
				r.Header.Set("Authorization", "Bearer bad")
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				return w.Code
			}
		}
		server, err := extauthz.New(resolver, cfg)
		require.NoError(t, err)
		gw, err := gateway.New(cfg)
		require.NoError(t, err)
		return map[string]func() int{
			proxy: over(gw, err), forwardAuth: over(gateway.NewForwardAuth(cfg)),
			extAuthz: func() int {
				response, err := server.Check(t.Context(), checkFrom("192.0.2.1"))
				require.NoError(t, err)
				return int(response.GetDeniedResponse().GetStatus().GetCode())
			},
		}
	}
	for first := range ask(gateway.Config{}) {
		guard, err := gateway.NewGuard(gateway.Config{FailedAuthLimit: 1, Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		faces := ask(gateway.Config{Guard: guard})
		require.Equal(t, 401, faces[first](), first)
		for face, status := range faces {
			require.Equal(t, 429, status(), "%s after %s", face, first)
		}
	}
	for face, status := range ask(gateway.Config{}) {
		require.Equal(t, 401, status(), face)
	}
}
