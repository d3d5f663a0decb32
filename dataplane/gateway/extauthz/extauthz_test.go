package extauthz_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
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

// start serves on a socket until stop is called. Then ended has the result of Serve.
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

// newCheck returns the check of a POST from 192.0.2.1. The functions may change it.
func newCheck(provider, path string, header map[string]string, change ...func(*authv3.AttributeContext)) *authv3.CheckRequest {
	attributes := &authv3.AttributeContext{
		ContextExtensions: map[string]string{"provider": provider},
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: "192.0.2.1"},
		}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "POST", Path: path, Headers: header}},
	}
	for _, c := range change {
		c(attributes)
	}
	return &authv3.CheckRequest{Attributes: attributes}
}

func check(
	t *testing.T, conn *grpc.ClientConn, provider, path string, header map[string]string, change ...func(*authv3.AttributeContext),
) *authv3.CheckResponse {
	t.Helper()
	response, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), newCheck(provider, path, header, change...))
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
		in := func(place string) func(*authv3.AttributeContext) {
			return func(a *authv3.AttributeContext) { a.ContextExtensions["credential"] = place }
		}
		response := check(t, conn, "openai", "/v1/chat/completions",
			map[string]string{"authorization": "Bearer " + callersKey, "x-forwarded-proto": "https"}, in("metadata"))
		require.Equal(t, secret, response.GetDynamicMetadata().GetFields()["secret_for_openai"].GetStringValue())
		require.Empty(t, response.GetOkResponse().GetHeaders(), "the key is in no header")
		require.ElementsMatch(t, []string{"authorization", "x-api-key", "x-goog-api-key", "api-key"}, response.GetOkResponse().GetHeadersToRemove(),
			"Envoy needs X-Forwarded-Proto to match a route again")
		response = check(t, conn, "openai", "/v1/chat/completions", map[string]string{"authorization": "Bearer " + callersKey}, in("header"))
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
		response := check(t, conn, "openai", "", nil, func(a *authv3.AttributeContext) { a.Request.Http.HeaderMap = headers })
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

// Envoy sends the client's address itself.
func TestFailuresCountByEnvoysClientAddress(t *testing.T) {
	conn, _, _, _ := start(t, dataplanetest.Serving(callersKey, nil), 1)
	ask := func(client string) int32 {
		response := check(t, conn, "openai", "", map[string]string{"x-api-key": "bad"}, func(a *authv3.AttributeContext) {
			a.Source.Address.GetSocketAddress().Address = client
		})
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
				response, err := server.Check(t.Context(), newCheck("openai", "", map[string]string{"x-api-key": "bad"}))
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

// The proxy, forward-auth and ext_authz decide alike on every request. ext_authz tells Envoy to remove what the proxy
// removes.
func TestOneCheckBehindThreeFaces(t *testing.T) {
	var seen http.Header
	provider := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }))
	t.Cleanup(provider.Close)
	key := dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, provider.URL+"/v1", secret)
	key.Administration = []string{"/organization", "/tuned/*/permissions"}
	key.Restrictions = &dataplane.Restrictions{Operations: []string{"/chat", "/organization", "/organizations", "/organization:batch", "/tuned", "/admin"}}
	resolver := dataplanetest.Serving(callersKey, key)
	conn, _, _, _ := start(t, resolver)
	proxy, err := gateway.New(gateway.Config{Resolver: resolver})
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	forwardAuth, err := gateway.NewForwardAuth(gateway.Config{Resolver: resolver})
	require.NoError(t, err)

	inBase64 := base64.URLEncoding.EncodeToString([]byte("user:" + callersKey))
	percent := "%61k" + url.QueryEscape(callersKey[2:])
	for name, sent := range map[string]struct {
		method, path string
		header       map[string]string
		status       int
	}{
		"a plain request":                      {"POST", "/v1/chat", nil, 200},
		"TRACE":                                {"TRACE", "/v1/chat", nil, 405},
		"track in lower case":                  {"track", "/v1/chat", nil, 405},
		"CONNECT":                              {"CONNECT", "/v1/chat", nil, 405},
		"dots in the path":                     {"POST", "/v1/../admin", nil, 400},
		"an empty segment":                     {"POST", "/v1//admin", nil, 400},
		"escaped dots in the path":             {"POST", "/v1/%2e%2e/admin", nil, 400},
		"administration":                       {"POST", "/v1/organization/admin_api_keys", nil, 403},
		"administration, spelled otherwise":    {"POST", "/v1/Organization;a=b/%61dmin_api_keys", nil, 403},
		"administration, without the version":  {"GET", "/organization", nil, 403},
		"a method of administration":           {"GET", "/v1/organization:batch", nil, 403},
		"administration below any one segment": {"GET", "/v1/tuned/m1/permissions/p", nil, 403},
		"what only begins as administration":   {"GET", "/v1/organizations", nil, 200},
		"an operation that the key is not for": {"POST", "/v1/embeddings", nil, 403},
		"two API keys":                         {"POST", "/v1/chat", map[string]string{"x-api-key": "ak_01M8H8236WYX8787KJMGSKFAWB_x_y"}, 401},
		"a provider's key beside ours":         {"POST", "/v1/chat", map[string]string{"x-api-key": "another", "api-key": "a third"}, 200},
		"a project that is no id":              {"POST", "/v1/chat", map[string]string{"agentrouter-project": "a b"}, 400},
		"the credential elsewhere": {"POST", "/v1/chat", map[string]string{
			"x-my-key": callersKey, "x-escaped": percent, "x-base64": inBase64, "x_api_key": "another", "x-keep": "this",
			"sec-websocket-protocol": "realtime, openai-insecure-api-key." + callersKey,
		}, 200},
		"headers that replace the path or the method": {"POST", "/v1/chat", map[string]string{
			"x-original-url": "/admin", "x-http-method-override": "TRACE", "x-rewrite-url": "/admin", "x-envoy-original-path": "/admin",
		}, 200},
		"headers that identify the caller": {"POST", "/v1/chat", map[string]string{
			"cf-connecting-ip": "192.0.2.1", "x-client-ip": "192.0.2.1", "fastly-client-ip": "192.0.2.1", "cookie": "a=b", "via": "1.1 x",
		}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			header := map[string]string{"authorization": "Bearer " + callersKey}
			for field, value := range sent.header {
				header[field] = value
			}
			request := func(target string) *http.Request {
				r := httptest.NewRequest(http.MethodPost, "http://gateway.example", nil)
				r.Method = sent.method
				r.URL = &url.URL{Path: target, RawPath: target}
				if plain, err := url.PathUnescape(target); err == nil {
					r.URL.Path = plain
				}
				for field, value := range header {
					r.Header.Set(field, value)
				}
				return r
			}
			seen = nil
			byProxy := httptest.NewRecorder()
			proxy.ServeHTTP(byProxy, request("/openai"+sent.path))
			require.Equal(t, sent.status, byProxy.Code, byProxy.Body)

			ask := request("/auth/openai")
			ask.Method = http.MethodGet
			ask.Header.Set("X-Forwarded-Method", sent.method)
			ask.Header.Set("X-Forwarded-Uri", "/openai"+sent.path+"?a=b")
			byForwardAuth := httptest.NewRecorder()
			forwardAuth.ServeHTTP(byForwardAuth, ask)
			require.Equal(t, sent.status, byForwardAuth.Code, byForwardAuth.Body)

			byEnvoy := check(t, conn, "openai", "/openai"+sent.path, header, func(a *authv3.AttributeContext) { a.Request.Http.Method = sent.method })
			if sent.status != http.StatusOK {
				require.EqualValues(t, sent.status, byEnvoy.GetDeniedResponse().GetStatus().GetCode())
				return
			}
			left := http.Header{}
			for field, value := range header {
				left.Set(field, value)
			}
			for _, field := range byEnvoy.GetOkResponse().GetHeadersToRemove() {
				left.Del(field)
			}
			for field, value := range fields(byEnvoy.GetOkResponse().GetHeaders()) {
				left.Set(field, value)
			}
			for _, own := range []string{"Accept-Encoding", "User-Agent", "Content-Length"} {
				seen.Del(own)
			}
			require.Equal(t, seen, left)
			for field, values := range left {
				require.NotContains(t, strings.Join(values, ","), callersKey, field)
			}
		})
	}
}

// Browsers send the credential of a WebSocket as a protocol. nginx and similar proxies could not remove it, so
// forward-auth ignores it.
func TestCredentialInAProtocol(t *testing.T) {
	resolver := dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, "https://p.example", secret))
	conn, _, _, _ := start(t, resolver)
	forwardAuth, err := gateway.NewForwardAuth(gateway.Config{Resolver: resolver})
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		protocols, authorization string
		byEnvoy, byForwardAuth   int
	}{
		"alone":             {"realtime, openai-insecure-api-key." + callersKey, "", 200, 401},
		"first":             {"openai-insecure-api-key." + callersKey + ",realtime", "", 200, 401},
		"twice the same":    {"realtime, openai-insecure-api-key." + callersKey, "Bearer " + callersKey, 200, 200},
		"a foreign one":     {"realtime, openai-insecure-api-key.another", "Bearer " + callersKey, 200, 200},
		"two of ours":       {"realtime, openai-insecure-api-key.ak_01M8H8236WYX8787KJMGSKFAWB_x_y", "Bearer " + callersKey, 401, 200},
		"an empty one":      {"realtime, openai-insecure-api-key.", "", 401, 401},
		"with another name": {"realtime, api-key." + callersKey, "", 401, 401},
	} {
		t.Run(name, func(t *testing.T) {
			header := map[string]string{"sec-websocket-protocol": tc.protocols}
			if tc.authorization != "" {
				header["authorization"] = tc.authorization
			}
			byEnvoy := check(t, conn, "openai", "/openai/realtime", header)
			require.Equal(t, tc.byEnvoy != 200, byEnvoy.GetDeniedResponse() != nil)
			if tc.byEnvoy == 200 {
				require.Equal(t, "realtime", fields(byEnvoy.GetOkResponse().GetHeaders())["sec-websocket-protocol"])
			}
			ask := httptest.NewRequest(http.MethodGet, "/auth/openai", nil)
			ask.Header.Set("X-Forwarded-Uri", "/openai/realtime")
			for field, value := range header {
				ask.Header.Set(field, value)
			}
			byForwardAuth := httptest.NewRecorder()
			forwardAuth.ServeHTTP(byForwardAuth, ask)
			require.Equal(t, tc.byForwardAuth, byForwardAuth.Code)
		})
	}
}

// A use counts once, through each way into the gateway. It counts as a refusal if the provider never sees it.
func TestEveryFaceCountsTheUse(t *testing.T) {
	provider := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	key := dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, provider.URL+"/v1", secret)
	key.Administration = []string{"/organization"}
	resolver := dataplanetest.Serving(callersKey, key)
	conn, _, _, _ := start(t, resolver)
	proxy, err := gateway.New(gateway.Config{Resolver: resolver})
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	forwardAuth, err := gateway.NewForwardAuth(gateway.Config{Resolver: resolver})
	require.NoError(t, err)
	ask := func(credential string, handler http.Handler, target, uri string) {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Header.Set("Authorization", "Bearer "+credential)
		r.Header.Set("X-Forwarded-Uri", uri)
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	ask(callersKey, proxy, "/openai/chat", "")
	require.Equal(t, []int{http.StatusOK}, resolver.Calls().Reports)
	require.Empty(t, resolver.Calls().Uses, "the report counts")
	ask(callersKey, proxy, "/openai/organization", "")
	require.Equal(t, []bool{true}, resolver.Calls().Uses)
	ask(callersKey, forwardAuth, "/auth/openai", "/openai/chat")
	ask(callersKey, forwardAuth, "/auth/openai", "/openai/organization")
	require.Equal(t, []bool{true, false, true}, resolver.Calls().Uses)
	header := map[string]string{"authorization": "Bearer " + callersKey}
	check(t, conn, "openai", "/openai/chat", header)
	check(t, conn, "openai", "/openai/organization", header)
	require.Equal(t, []bool{true, false, true, false, true}, resolver.Calls().Uses)
	ask("another", proxy, "/openai/chat", "")
	require.Len(t, resolver.Calls().Uses, 5, "without a key there is no use")
	provider.Close()
	ask(callersKey, proxy, "/openai/chat", "")
	require.Equal(t, []bool{true, false, true, false, true, false}, resolver.Calls().Uses)
	require.Len(t, resolver.Calls().Reports, 1)
}

func TestLogSaysWhoUsedAKey(t *testing.T) {
	provider := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(provider.Close)
	key := dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, provider.URL, secret)
	key.CustomerID, key.ProjectID, key.Caller = "acme", "chat", &dataplane.Caller{UserID: "bob", TokenID: "ak_bob"}
	resolver, log := dataplanetest.Serving(callersKey, key), new(dataplanetest.Log)
	cfg := gateway.Config{Resolver: resolver, Log: log.Logger(), TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	proxy, err := gateway.New(cfg)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	forwardAuth, err := gateway.NewForwardAuth(cfg)
	require.NoError(t, err)
	for target, handler := range map[string]http.Handler{"/openai/chat": proxy, "/auth/openai": forwardAuth} {
		r := httptest.NewRequest(http.MethodPost, target, nil) // from 192.0.2.1
		r.Header.Set("Authorization", "Bearer "+callersKey)
		r.Header.Set("X-Forwarded-For", "198.51.100.7")
		r.Header.Set("X-Original-Method", "POST")
		r.Header.Set("X-Original-Uri", "/openai/chat")
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	conn, byEnvoy, _, _ := start(t, resolver)
	check(t, conn, "openai", "/openai/chat", map[string]string{"authorization": "Bearer " + callersKey})
	lines := strings.Split(strings.TrimSpace(log.String()+byEnvoy.String()), "\n")
	require.Len(t, lines, 3)
	for _, line := range lines {
		for _, attribute := range []string{
			`"customer_id":"acme"`, `"project_id":"chat"`, `"user_id":"bob"`, `"token_id":"ak_bob"`, `"key_id":"` + key.ID + `"`, `"method":"POST"`, `"client":"`,
			`"operation":"inference"`,
		} {
			require.Contains(t, line, attribute)
		}
	}
	require.Equal(t, 2, strings.Count(log.String(), `"client":"198.51.100.7"`))
	require.Contains(t, log.String(), `"upstream":`)

	r := httptest.NewRequest(http.MethodPost, "/openai/chat", nil)
	r.Header.Set("Authorization", "Bearer another")
	proxy.ServeHTTP(httptest.NewRecorder(), r)
	lines = strings.Split(strings.TrimSpace(log.String()), "\n")
	refused := lines[len(lines)-1]
	for _, attribute := range []string{`"method":"POST"`, `"client":"192.0.2.1"`, `"cause":"`} {
		require.Contains(t, refused, attribute)
	}
}
