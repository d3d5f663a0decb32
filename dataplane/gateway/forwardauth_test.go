package gateway

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func startForwardAuth(t testing.TB, resolver *dataplanetest.FakeResolver, secret func() string, change ...func(*Config)) *testGateway {
	t.Helper()
	return startHandler(t, resolver, NewForwardAuth, append(change, func(cfg *Config) { cfg.ForwardAuthSecret = secret })...)
}

// A proxy that copies all four headers puts the key in and takes the caller's credential out.
func TestForwardAuthHeaders(t *testing.T) {
	for style, want := range map[dataplane.AuthStyle][2]string{
		dataplane.AuthBearer:      {"Authorization", "Bearer " + providersKey},
		dataplane.AuthXAPIKey:     {"X-Api-Key", providersKey},
		dataplane.AuthXGoogAPIKey: {"X-Goog-Api-Key", providersKey},
		dataplane.AuthAPIKey:      {"Api-Key", providersKey},
	} {
		gw := startForwardAuth(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", style, "https://p.example", providersKey)), nil)
		for _, method := range []string{"GET", "POST", "HEAD"} {
			r := request(t, method, gw.URL+"/auth/openai", nil)
			r.Header.Set("X-Original-Uri", "/openai/chat")
			res, body := do(t, r)
			require.Equal(t, 200, res.StatusCode)
			require.Empty(t, body)
			for _, name := range CredentialHeaders() {
				value := ""
				if name == want[0] {
					value = want[1]
				}
				require.Equal(t, []string{value}, res.Header[name], name)
			}
			require.Equal(t, dataplanetest.NewKeyID, res.Header.Get("Agentrouter-Key-Id"))
			require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
		}
		requireUnmarked(t, gw.log.String())
	}
}

func TestForwardAuthRefuses(t *testing.T) {
	for _, tc := range []struct {
		err    error
		path   string
		status int
	}{
		{dataplane.ErrCallerUnauthenticated, "/auth/openai", 401},
		{dataplane.ErrNoKey, "/auth/openai", 403},
		{dataplane.ErrUnavailable, "/auth/openai", 503},
		{errors.New("MARKED"), "/auth/openai", 500},
		{nil, "/auth/", 404},
		{nil, "/auth/openai/x", 404},
		{nil, "/openai", 404},
	} {
		gw := startForwardAuth(t, dataplanetest.Refusing(tc.err), nil)
		res, body := do(t, request(t, "GET", gw.URL+tc.path, nil))
		require.Equal(t, tc.status, problemOf(t, res, body).Status)
		for _, name := range CredentialHeaders() {
			require.NotContains(t, res.Header, name)
		}
		requireUnmarked(t, body, gw.log.String())
	}
}

// Whether an operation may be served, and in which header a provider takes its key, depends on the path.
func TestForwardAuthNeedsOnePath(t *testing.T) {
	key := dataplanetest.NewKey(t, "gemini", dataplane.AuthXGoogAPIKey, "https://provider.example/v1beta", providersKey)
	key.Routes = []dataplane.Route{{Path: "/v1beta/openai", AuthStyle: dataplane.AuthBearer}}
	gw := startForwardAuth(t, dataplanetest.Serving(callersKey, key), nil)
	const native, compatible = "/gemini/v1beta/models", "/gemini/v1beta/openai/models"
	for _, tc := range []struct {
		paths  map[string]string
		status int
		in     string
	}{
		{nil, 500, ""},
		{map[string]string{"X-Original-Uri": ""}, 500, ""},
		{map[string]string{"X-Original-Uri": "", "X-Forwarded-Uri": "?page=2"}, 500, ""},
		{map[string]string{"X-Original-Uri": native}, 200, "X-Goog-Api-Key"},
		{map[string]string{"X-Forwarded-Uri": compatible}, 200, "Authorization"},
		{map[string]string{"X-Original-Uri": native, "X-Forwarded-Uri": native + "?page=2"}, 200, "X-Goog-Api-Key"},
		{map[string]string{"X-Original-Uri": native, "X-Forwarded-Uri": compatible}, 500, ""},
		{map[string]string{"X-Original-Uri": compatible, "X-Forwarded-Uri": native}, 500, ""},
	} {
		r := request(t, "GET", gw.URL+"/auth/gemini", nil)
		for name, path := range tc.paths {
			r.Header.Set(name, path)
		}
		res, body := do(t, r)
		require.Equal(t, tc.status, res.StatusCode, tc.paths)
		if tc.status == 500 {
			require.Contains(t, body, `"/problems/no-path"`)
			require.NotContains(t, body, providersKey)
			continue
		}
		require.NotEmpty(t, res.Header.Get(tc.in), tc.paths)
	}
}

// A query does not count as a credential here, but it may name another model than the path.
func TestForwardAuthReadsTheModelInQueries(t *testing.T) {
	key := dataplanetest.NewKey(t, "gemini", dataplane.AuthXGoogAPIKey, "https://provider.example/v1beta", providersKey)
	key.Restrictions = &dataplane.Restrictions{Models: []string{"m"}}
	gw := startForwardAuth(t, dataplanetest.Serving(callersKey, key), nil)
	for uri, status := range map[string]int{
		"/gemini/models/m:generateContent": 200, "/gemini/models/m:generateContent?alt=sse": 200,
		"/gemini/models/m:generateContent?Model=x": 403, "/gemini/models/m:generateContent?%zz": 403, "/gemini/models/x:generateContent": 403,
	} {
		r := request(t, "POST", gw.URL+"/auth/gemini", nil)
		r.Header.Set("X-Original-Uri", uri)
		res, body := do(t, r)
		require.Equal(t, status, res.StatusCode, "%s: %s", uri, body)
	}
}

func TestForwardAuthSecret(t *testing.T) {
	expected := "hunter2"
	gw := startForwardAuth(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, "https://p.example", providersKey)), func() string { return expected })
	ask := func(values ...string) int {
		r := request(t, "GET", gw.URL+"/auth/openai", nil)
		r.Header["Agentrouter-Forward-Auth"] = values
		r.Header.Set("X-Original-Uri", "/openai/chat")
		res, _ := do(t, r)
		return res.StatusCode
	}
	require.Equal(t, 200, ask("hunter2"))
	require.Equal(t, 403, ask())
	require.Equal(t, 403, ask(""))
	require.Equal(t, 403, ask("hunter"))
	require.Equal(t, 403, ask("hunter2", "hunter2"))
	expected = ""
	require.Equal(t, 403, ask(""), "no secret lets nobody in")
}
