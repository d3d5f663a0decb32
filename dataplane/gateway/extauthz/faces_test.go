package extauthz_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

// Every request is decided alike by the proxy, by forward-auth and by ext_authz; and what the proxy removes, ext_authz tells Envoy to
// remove.
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

			byEnvoy := checkAs(t, conn, sent.method, "openai", "/openai"+sent.path, header)
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

// Browsers send the credential of a WebSocket as a protocol. nginx and its like could not remove it, so they get no grant for it.
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
			byEnvoy := checkAs(t, conn, http.MethodGet, "openai", "/openai/realtime", header)
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

// A use counts once, whichever way it is made, and is a refusal if the provider never sees it.
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
	checkAs(t, conn, http.MethodPost, "openai", "/openai/chat", header)
	checkAs(t, conn, http.MethodPost, "openai", "/openai/organization", header)
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
