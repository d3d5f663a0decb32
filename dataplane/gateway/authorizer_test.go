package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
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

// A credential in the query is ignored here, but the query may name another model than the path.
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
	gw := startForwardAuth(t, dataplanetest.Serving(callersKey, newKey(t, "openai", "https://p.example")), func() string { return expected })
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

func startAgent(t testing.TB, resolver *dataplanetest.FakeResolver, change ...func(*Config)) *testGateway {
	t.Helper()
	return startHandler(t, resolver, func(cfg Config) (http.Handler, error) {
		return NewAgent(cfg, func() time.Duration { return time.Second })
	}, change...)
}

// ask asks an agent, and requires that the answer follows the contract.
func (r *testGateway) ask(t testing.TB, question string) (answer, string) {
	t.Helper()
	asked := request(t, http.MethodPost, r.URL+"/v1/key", strings.NewReader(strings.ReplaceAll(question, "*", callersKey)))
	asked.Header.Del("Authorization")
	res, body := do(t, asked)
	contract, err := openapi3.NewLoader().LoadFromFile("../../docs/agent.openapi.yaml")
	require.NoError(t, err)
	require.NoError(t, contract.Validate(t.Context()))
	schema, media := "Problem", "application/problem+json"
	if res.StatusCode == http.StatusOK {
		schema, media = "Key", "application/json"
	}
	require.Equal(t, media, res.Header.Get("Content-Type"), body)
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	var document any
	require.NoError(t, json.Unmarshal([]byte(body), &document))
	require.NoError(t, contract.Components.Schemas[schema].Value.VisitJSON(document))
	return res, body
}

func TestAgentSaysHowToSendARequest(t *testing.T) {
	for style, header := range map[dataplane.AuthStyle][2]string{
		dataplane.AuthBearer:      {"Authorization", "Bearer " + providersKey},
		dataplane.AuthXAPIKey:     {"X-Api-Key", providersKey},
		dataplane.AuthXGoogAPIKey: {"X-Goog-Api-Key", providersKey},
		dataplane.AuthAPIKey:      {"Api-Key", providersKey},
	} {
		gw := startAgent(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", style, "https://p.example/v1", providersKey)))
		res, body := gw.ask(t, `{"provider": "openai", "path": "/v1/chat/completions?trace=1", "credential": "*", "project_id": "chat", "client_ip": "192.0.2.7"}`)
		require.Equal(t, http.StatusOK, res.StatusCode, body)
		var got map[string]any
		require.NoError(t, json.Unmarshal([]byte(body), &got))
		require.Equal(t, "https://p.example/v1", got["base_url"])
		require.Equal(t, "https://p.example/v1/chat/completions", got["url"])
		require.Equal(t, providersKey, got["secret"])
		require.Equal(t, []any{map[string]any{"name": header[0], "value": header[1]}}, got["inject"])
		require.Equal(t, dataplanetest.NewKeyID, got["key_id"])
		require.LessOrEqual(t, got["expires_in_ms"], 1000.0)
		require.Equal(t, "chat", gw.Calls().Requests[0].ProjectID)
		require.Equal(t, []bool{false}, gw.Calls().Uses)
		requireUnmarked(t, gw.log.String())
	}
}

func TestAgentNamesTheOperatorsUpstream(t *testing.T) {
	upstreams := func(cfg *Config) {
		cfg.Upstreams = map[string]*url.URL{"openai": mustURL(t, "https://proxy.example/openai/v1")}
	}
	gw := startAgent(t, dataplanetest.Serving(callersKey, newKey(t, "openai", "https://p.example/v1")), upstreams)
	_, body := gw.ask(t, `{"provider": "openai", "path": "/models", "credential": "*", "method": "GET"}`)
	require.Contains(t, body, `"url":"https://proxy.example/openai/v1/models"`)
}

func TestAgentRefuses(t *testing.T) {
	for _, tc := range []struct {
		err      error
		question string
		status   int
	}{
		{dataplane.ErrCallerUnauthenticated, `{"provider": "openai", "path": "/models", "credential": "*"}`, 401},
		{dataplane.ErrKeyRevoked, `{"provider": "anthropic", "path": "/v1/messages", "credential": "*"}`, 403},
		{dataplane.ErrUnavailable, `{"provider": "gemini", "path": "/models", "credential": "*"}`, 503},
		{nil, `{"provider": "openai", "path": "/models"}`, 401},
		{nil, `{"provider": "openai", "path": "/models?key=*"}`, 401},
		{nil, `{"provider": "openai", "path": "/../models", "credential": "*"}`, 400},
		{nil, `{"provider": "openai", "path": "/models", "credential": "*", "method": "TRACE"}`, 405},
		{nil, `{"provider": "../x", "path": "/models", "credential": "*"}`, 404},
		{nil, `{"provider": "openai", "path": "", "credential": "*"}`, 400},
		{nil, `{"path": "/models", "credential": "*"}`, 400},
		{nil, `{"provider": "openai", "path": "/models", "credential": "*", "models": "m"}`, 400},
		{nil, `{"provider": "openai", "path": "/models", "credential": "a", "credential": "*"}`, 400},
		{nil, `{"provider": "openai", "path": "/models", "credential": "*"} {}`, 400},
		{nil, `{"provider": "openai", "path": "/models", "credential": "` + strings.Repeat("*", 32<<10) + `"}`, 400},
		{nil, `{"provider": "openai", "path": "https://other.example/models", "credential": "*"}`, 400},
		{nil, `{"provider": "openai", "path": "//other.example/models", "credential": "*"}`, 400},
		{nil, `{"provider": "openai", "path": "@other.example/models", "credential": "*"}`, 400},
		{nil, `{"provider": "openai", "path": "/\\other.example", "credential": "*"}`, 400},
		{nil, `{"provider": "openai", "path": "/models", "credential": "*", "project_id": "a\r\nb"}`, 400},
		{nil, `{"provider": "openai", "path": "/models", "credential": "*", "model": "\ud800"}`, 400},
		{nil, strings.Repeat("[", 30<<10), 400},
		{nil, ``, 400},
	} {
		gw := startAgent(t, dataplanetest.Refusing(tc.err))
		res, body := gw.ask(t, tc.question)
		require.Equal(t, tc.status, res.StatusCode, "%.80s: %s", tc.question, body)
		require.Equal(t, tc.err != nil, len(gw.Calls().Requests) == 1, "what is refused here costs no lookup")
		require.NotContains(t, body, "MARKED")
		requireUnmarked(t, gw.log.String())
	}
	gw := startAgent(t, dataplanetest.Refusing(nil))
	for _, r := range []*http.Request{request(t, "GET", gw.URL+"/v1/key", nil), request(t, "POST", gw.URL+"/", strings.NewReader("{}"))} {
		res, _ := do(t, r)
		require.Equal(t, 400, res.StatusCode)
	}
}

// The program that asks has read the body, and says which model it names.
func TestAgentHoldsKeysToTheirModels(t *testing.T) {
	for provider, model := range map[string]string{"openai": "gpt-5-mini", "gemini": "models/gpt-5-mini"} {
		key := newKey(t, provider, "https://p.example/v1")
		key.Restrictions = &dataplane.Restrictions{Models: []string{"gpt-5*"}}
		gw := startAgent(t, dataplanetest.Serving(callersKey, key))
		for named, status := range map[string]int{model: 200, "gpt-4": 403, "": 403} {
			res, body := gw.ask(t, fmt.Sprintf(`{"provider": %q, "path": "/chat/completions", "credential": "*", "model": %q}`, provider, named))
			require.Equal(t, status, res.StatusCode, body)
		}
	}
}

// A key of a custom provider may be sent only by a program that checks each address when it makes the connection.
func TestAgentNamesNoKeyOfACustomProvider(t *testing.T) {
	gw := startAgent(t, dataplanetest.Serving(callersKey, newKey(t, "x-mine", "https://p.example/v1")))
	res, body := gw.ask(t, `{"provider": "x-mine", "path": "/models", "credential": "*"}`)
	require.Equal(t, 403, res.StatusCode)
	require.Contains(t, body, "custom-provider-not-served")
}

// A program that never ends its question holds nothing for longer than a few seconds.
func TestAgentEndsSlowQuestions(t *testing.T) {
	gw := startAgent(t, dataplanetest.Refusing(nil))
	body, write := io.Pipe()
	defer func() { _ = write.Close() }()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gw.URL+"/v1/key", body)
	require.NoError(t, err)
	go func() { _, _ = io.WriteString(write, `{"provider": `) }() // fails once the agent has closed the connection
	res, err := http.DefaultClient.Do(r)
	if err == nil { // the client may see the end of the connection first
		require.Equal(t, http.StatusBadRequest, res.StatusCode)
		require.NoError(t, res.Body.Close())
	}
}
