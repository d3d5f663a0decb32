package gateway

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestJoin(t *testing.T) {
	cases := []struct{ base, rest, want string }{
		{"https://p.example/v1", "/chat/completions", "https://p.example/v1/chat/completions"},
		{"https://p.example/v1", "/v1/chat/completions", "https://p.example/v1/chat/completions"},
		{"https://p.example/v1/", "/v1", "https://p.example/v1"},
		{"https://p.example/v1", "/v1beta/x", "https://p.example/v1/v1beta/x"},
		{"https://p.example/openai/v1", "/openai/v1/models", "https://p.example/openai/v1/models"},
		{"https://p.example/openai/v1", "/v1/models", "https://p.example/openai/v1/models"},
		{"https://p.example/v1beta", "/openai/chat/completions", "https://p.example/v1beta/openai/chat/completions"},
		{"https://p.example", "/v1/messages", "https://p.example/v1/messages"},
		{"https://p.example/", "/", "https://p.example/"},
		{"https://p.example", "", "https://p.example"},
		{"https://p.example/v1", "/models/meta-llama%2FLlama-3", "https://p.example/v1/models/meta-llama%2FLlama-3"},
		{"https://p.example/v1", "/models/a:generate", "https://p.example/v1/models/a:generate"},
		{"https://p.example/v1", "/files/100%25", "https://p.example/v1/files/100%25"},
		{"https://p.example/v1", "/..a/.b/c..", "https://p.example/v1/..a/.b/c.."},
	}
	for _, tc := range cases {
		to, err := newDestination(&dataplane.Key{BaseURL: tc.base}, nil)
		require.NoError(t, err)
		path, err := parsePath(tc.rest)
		require.NoError(t, err, tc.rest)
		require.Equal(t, tc.want, to.join(path).String(), tc.rest)
	}
}

func TestJoinOnRoutes(t *testing.T) {
	key := &dataplane.Key{BaseURL: "https://p.example/v1beta", Routes: []dataplane.Route{
		{Path: "/v1"}, {Path: "/upload"}, {Path: "/v1beta/openai", AuthStyle: dataplane.AuthBearer},
	}}
	for _, c := range []struct{ upstream, rest, want, onHost string }{
		{"", "/v1/models/m:generate", "https://p.example/v1/models/m:generate", "/v1/models/m:generate"},
		{"", "/v1", "https://p.example/v1", "/v1"},
		{"", "/v10", "https://p.example/v1beta/v10", "/v1beta/v10"},
		{"", "/%76%31/models", "https://p.example/v1beta/%76%31/models", "/v1beta/%76%31/models"},
		{"", "/models", "https://p.example/v1beta/models", "/v1beta/models"},
		{"", "/v1beta/models", "https://p.example/v1beta/models", "/v1beta/models"},
		{"", "/openai/chat", "https://p.example/v1beta/openai/chat", "/v1beta/openai/chat"},
		{"", "/v1beta/openai/chat", "https://p.example/v1beta/openai/chat", "/v1beta/openai/chat"},
		{"https://x.example/deep/v1beta", "/upload/v1beta/files", "https://x.example/deep/upload/v1beta/files", "/upload/v1beta/files"},
		{"https://x.example/deep/v1beta/", "/models", "https://x.example/deep/v1beta/models", "/v1beta/models"},
		{"https://x.example/deep", "/v1/models", "https://x.example/deep/v1/models", "/v1/models"},
		{"https://x.example", "/v1beta/openai/chat", "https://x.example/v1beta/openai/chat", "/v1beta/openai/chat"},
		{"https://x.example", "/openai/chat", "https://x.example/openai/chat", "/v1beta/openai/chat"},
		{"https://x.example/deep", "/models", "https://x.example/deep/models", "/v1beta/models"},
	} {
		var upstream *url.URL
		if c.upstream != "" {
			upstream = mustURL(t, c.upstream)
		}
		to, err := newDestination(key, upstream)
		require.NoError(t, err)
		target := to.join(safePath(c.rest))
		require.Equal(t, c.want, target.String(), c.rest)
		require.Equal(t, c.onHost, to.pathOnHost(target), c.rest)
	}
}

// The location in a path of Vertex AI decides the host, and nothing else does.
func TestLocationsDecideTheHost(t *testing.T) {
	key := &dataplane.Key{BaseURL: "https://ai.example/v1", Routes: []dataplane.Route{{Path: "/v1/projects/*/locations/*", Host: "*-ai.example"}}}
	to, err := newDestination(key, nil)
	require.NoError(t, err)
	for path, want := range map[string]string{
		"/projects/p/locations/us-east1/models/m:predict": "https://us-east1-ai.example/v1/projects/p/locations/us-east1/models/m:predict",
		"/v1/projects/p/locations/us-east1/models":        "https://us-east1-ai.example/v1/projects/p/locations/us-east1/models",
		"/publishers/google/models/m":                     "https://ai.example/v1/publishers/google/models/m",
	} {
		target, err := to.target(safePath(path))
		require.NoError(t, err)
		require.Equal(t, want, target.String())
	}
	_, err = to.target("/projects/p/locations/evil.example%2f/models")
	require.ErrorIs(t, err, errLocation)
	to, err = newDestination(key, mustURL(t, "https://x.example/v1"))
	require.NoError(t, err)
	target, err := to.target("/projects/p/locations/us-east1/models")
	require.NoError(t, err)
	require.Equal(t, "https://x.example/v1/projects/p/locations/us-east1/models", target.String(), "an upstream stands for all hosts")
}

// For every path, the host is the provider's, and no number of decodings makes the path lead out of the base.
func FuzzJoin(f *testing.F) {
	for _, rest := range []string{
		"/..", "/../x", "/a/../../x", "/./x", "/a/.", "//evil.example/x", "/a//b", "/%2e%2e/x", "/%2E%2e/x", "/.%2e/x",
		"/a%2f..%2fx", "/%2fevil.example", "/a/%2f/b", "/..%2fx", `/..\x`, "/..%5cx", "/%5c%5cevil.example", `/\evil.example`,
		"/%252e%252e/x", "/%25252e%25252e/x", "/..;/x", "/..;a=b/x", "/%2e%2e%3b/x", "/a%00", "/a%0d%0aX: y", "/%c0%ae%c0%ae/x",
		"/%zz%2e%2e", "/%%32%65%%32%65/x", "@evil.example/x", ".evil.example", ":80/x", "x",
	} {
		_, err := parsePath(rest)
		require.ErrorIs(f, err, errPath, rest)
		f.Add("/v1", rest)
		f.Add("", rest)
	}
	f.Add("/openai/v1", "/openai/v1/chat")
	f.Add("/v1", "/models/a%252Fb")
	f.Fuzz(func(t *testing.T, root, rest string) {
		base, err := url.Parse("https://p.example" + root)
		plain := !strings.ContainsFunc(root, func(r rune) bool { return !strings.ContainsRune("/abv019._-", r) })
		if err != nil || base.Host != "p.example" || !plain || !hasSafeSegments("/"+strings.TrimPrefix(root, "/")) {
			return
		}
		asked, err := url.ParseRequestURI("/p" + rest) // as net/http reads it
		if err != nil {
			return
		}
		safe, err := parsePath(strings.TrimPrefix(asked.EscapedPath(), "/p"))
		if err != nil {
			return
		}
		to, err := newDestination(&dataplane.Key{BaseURL: base.String()}, nil)
		require.NoError(t, err)
		sent, err := url.Parse(to.join(safe).String())
		require.NoError(t, err)
		require.Equal(t, "https://p.example", sent.Scheme+"://"+sent.Host)
		require.Nil(t, sent.User)
		within := path.Clean("/" + base.Path)
		for p := "/" + strings.TrimPrefix(sent.EscapedPath(), "/"); ; {
			clean := path.Clean(strings.ReplaceAll(p, `\`, "/"))
			require.True(t, within == "/" || clean == within || strings.HasPrefix(clean, within+"/"), "%q leaves %q", p, within)
			require.NotContains(t, p, `\`)
			require.NotContains(t, p, "//")
			decoded, changed := unescape(p)
			if !changed {
				return
			}
			p = decoded
		}
	})
}

func TestCheckDestination(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://api.example.com/v1":      true,
		"https://10.0.0.1:8443":           true,
		"http://127.0.0.1:1234/v1":        true,
		"http://localhost:1234":           true,
		"http://[::1]:1234":               true,
		"http://api.example.com":          false,
		"http://127.0.0.1.example.com":    false,
		"http://10.0.0.1":                 false,
		"ftp://api.example.com":           false,
		"//api.example.com":               false,
		"https://":                        false,
		"https://:443":                    false,
		"https:api.example.com":           false,
		"https://user@api.example.com":    false,
		"https://api.example.com/?a=b":    false,
		"https://api.example.com/#a":      false,
		"http://evil.example\\@127.0.0.1": false,
	} {
		u, err := url.Parse(text)
		require.Equal(t, ok, err == nil && checkBase(u, false) == nil, text)
	}
}

func TestCheckUpstreams(t *testing.T) {
	require.NoError(t, CheckUpstreams(nil, false))
	require.NoError(t, CheckUpstreams(map[string]*url.URL{
		"openai": mustURL(t, "https://llm.internal/v1/"), "anthropic": mustURL(t, "http://127.0.0.1:1"), "groq": mustURL(t, "http://[::1]:1/a/b"),
	}, false))
	inClear := map[string]*url.URL{"openai": mustURL(t, "http://llm.internal/v1")}
	require.NoError(t, CheckUpstreams(inClear, true), "the operator has said so, by --insecure")
	_, err := New(Config{Resolver: dataplanetest.Refusing(nil), Upstreams: inClear, Insecure: true})
	require.NoError(t, err)
	for _, bad := range []string{
		"http://llm.internal", "https://u:hunter2@x.example", "https://x.example?hunter2", "https://x.example?", "https://x.example#a",
		"https://x.example/a//b", "https://x.example/../v1", "https://x.example/%2e%2e/v1", "https://x.example:0", "https://x.example:65536",
		"ftp://x.example", "https:x.example", "https://",
	} {
		err := CheckUpstreams(map[string]*url.URL{"openai": mustURL(t, bad)}, false)
		require.ErrorContains(t, err, "the URL of openai must be https", bad)
		require.NotContains(t, err.Error(), "hunter2")
		_, err = New(Config{Resolver: dataplanetest.Refusing(nil), Upstreams: map[string]*url.URL{"openai": mustURL(t, bad)}})
		require.Error(t, err, bad)
	}
	err = CheckUpstreams(map[string]*url.URL{
		"OpenAI": mustURL(t, "https://x.example"), "https://u:hunter2@x": mustURL(t, "https://x.example"), "openai": nil,
		"opnai": mustURL(t, "https://x.example"),
	}, false)
	require.Len(t, strings.Split(err.Error(), "\n"), 4)
	require.ErrorContains(t, err, "there is no provider opnai; this release knows openai, anthropic, ")
	require.NotContains(t, err.Error(), "hunter2")
}

func mustURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}

// The gateway and the control plane's check of the catalogue know the same dialects.
func TestTheGatewayKnowsEachProvidersDialect(t *testing.T) {
	known := readCatalogue().bySlug
	require.NotEmpty(t, known)
	for _, slug := range Providers() {
		require.NotNil(t, known[slug].requests.key, slug)
		for _, dialect := range append(slices.Collect(maps.Values(known[slug].byRoute)), known[slug].dialect) {
			require.Contains(t, []Dialect{"", DialectOpenAI, DialectPerplexity, DialectAnthropic, DialectGoogle}, dialect, slug)
		}
		require.NotEmpty(t, known[slug].dialect, slug)
	}
}

func TestUpstreamsServeNoAdministrationEither(t *testing.T) {
	for _, test := range []struct{ own, pattern, base, path, want string }{
		{"https://api.example/v1", "/organization", "https://api.example/v1", "/v1/organization/users", operationAdministration},
		{"https://api.example/v1", "/organization", "https://api.example", "/v1/organization/users", operationAdministration},
		{"https://api.example/v1", "/organization", "https://proxy.example/deep/down", "/v1/organization", operationAdministration},
		{"https://api.example/v1", "/auth_keys", "https://api.example/v1", "/auth_\u212aey\u017f", operationAdministration},
		{"https://api.example", "/v1/organizations", "https://proxy.example/a/v1", "/organizations", operationAdministration},
		{"https://api.example", "/v1/organizations", "https://proxy.example/a/v1", "/v1/organizations", operationAdministration},
		{"https://api.example/api/v1", "/keys", "https://api.example", "/api/v1/keys", operationAdministration},
		{"https://api.example/api/v1", "/keys", "https://proxy.example/x", "/v1/keys", operationAdministration},
		{"https://api.example/v1", "/projects", "https://proxy.example/projects/v1", "/v1/chat", operationInference},
		{"https://api.example/v1", "/projects", "https://api.example/v1", "/models/projects", operationInference},
		{"https://api.example", "/v1/organizations", "https://api.example", "", operationInference},
	} {
		base, err := url.Parse(test.base)
		require.NoError(t, err)
		key := &dataplane.Key{BaseURL: test.own, Administration: []string{test.pattern}}
		to, err := newDestination(key, base)
		require.NoError(t, err)
		class, err := checkOperation(to, to.join(safePath(test.path)))
		require.Equal(t, test.want, class, "%s of %s at %s", test.path, test.own, test.base)
		require.Equal(t, class == operationAdministration, err != nil)
		key.AllOperations = true
		allowed, err := checkOperation(to, to.join(safePath(test.path)))
		require.NoError(t, err, "the project's policy says so")
		require.Equal(t, class, allowed)
	}
}

func TestRoutesServeNoAdministration(t *testing.T) {
	key := &dataplane.Key{
		BaseURL: "https://api.example/v1beta", Administration: []string{"/auth_tokens", "/upload/*/auth_tokens", "/tunedModels/*:transferOwnership"},
		Routes: []dataplane.Route{{Path: "/v1alpha"}, {Path: "/upload"}, {Path: "/v1beta/openai"}},
	}
	for _, base := range []string{"https://api.example/v1beta", "https://proxy.example/deep/v1beta", "https://proxy.example/deep"} {
		for path, want := range map[string]string{
			"/v1alpha/auth_tokens":        operationAdministration,
			"/v1alpha/Auth_Tokens;a=b":    operationAdministration,
			"/v1beta/auth_tokens/t":       operationAdministration,
			"/v1beta/openai/auth_tokens":  operationAdministration,
			"/upload/v1beta/auth_tokens":  operationAdministration,
			"/v1alpha/models/auth_tokens": operationInference,
			"/upload/v1beta/files":        operationInference,

			"/v1beta/tunedModels/m:transferOwnership":   operationAdministration,
			"/v1alpha/tunedmodels/m:transferownership":  operationAdministration,
			"/v1beta/tunedModels/m%3atransferOwnership": operationAdministration,
			"/v1beta/tunedModels/m:generateContent":     operationInference,
			"/v1beta/tunedModels/m":                     operationInference,
			"/v1beta/openai/chat":                       operationInference,
		} {
			upstream, err := url.Parse(base)
			require.NoError(t, err)
			to, err := newDestination(key, upstream)
			require.NoError(t, err)
			class, _ := checkOperation(to, to.join(safePath(path)))
			require.Equal(t, want, class, "%s at %s", path, base)
		}
	}
}

// SDKs show the sentence of the refusal. Nothing is sent to the provider.
func TestWhatCannotBeServedIsRefusedByName(t *testing.T) {
	for _, test := range []struct{ provider, base, path, want string }{
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/model/amazon.nova-sonic-v1%3A0/invoke-with-bidirectional-stream", "InvokeModelWithBidirectionalStream is not served: "},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/MODEL/m/invoke-with-bidirectional-stream/", "InvokeModelWithBidirectionalStream is not served: "},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/agents/a/agentAliases/b/sessions/c/text", "Bedrock's agents are not served: "},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/knowledgebases/k/retrieve", "Bedrock's knowledge bases are not served: "},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/model/agents/converse", ""},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/model/m/invoke-with-response-stream", ""},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/async-invoke", ""},
		{"vertex", "https://aiplatform.googleapis.com/v1", "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent", "Vertex AI's Live API (BidiGenerateContent) is not served: "},
		{"vertex", "https://aiplatform.googleapis.com/v1", "/v1/projects/p/locations/eu/publishers/google/models/ws:generateContent", ""},
		{"azure_openai", "https://r.services.ai.azure.com", "/api/projects/p/agents", "Foundry's projects and their agents are not served: "},
		{"gemini", "https://generativelanguage.googleapis.com/v1beta", "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", ""},
	} {
		key := &dataplane.Key{Provider: test.provider, BaseURL: test.base, AllOperations: true}
		to, err := newDestination(key, nil)
		require.NoError(t, err)
		_, err = checkOperation(to, to.join(safePath(test.path)))
		if test.want == "" {
			require.NoError(t, err, test.path)
			continue
		}
		problem := ProblemOf(err, "id")
		require.Equal(t, []any{501, "api_not_served"}, []any{problem.Status, problem.Error.Code})
		require.True(t, strings.HasPrefix(problem.Detail, test.want), problem.Detail)
		require.Equal(t, problem.Detail, problem.Error.Message)
	}
}

func TestTestsGoWhereRequestsGo(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host + r.URL.RequestURI()
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	}))
	t.Cleanup(server.Close)
	host := server.Listener.Addr().String()
	upstream, err := url.Parse(server.URL + "/proxy/v1")
	require.NoError(t, err)
	g, err := New(Config{Resolver: dataplanetest.Refusing(nil), Upstreams: map[string]*url.URL{"openai": upstream}})
	require.NoError(t, err)
	t.Cleanup(g.Close)
	for _, tc := range []struct{ provider, base, url, want string }{
		{"openai", "https://api.openai.com/v1", "https://api.openai.com/v1/models?limit=1", host + "/proxy/v1/models?limit=1"},
		{"groq", "https://api.groq.com/openai/v1", "http://api.groq.com/openai/v1/models", ""},
		{"x-vllm", "https://llm.example/v1", "https://evil.example/v1/models", ""},
		{"x-vllm", server.URL + "/v1", server.URL + "/v1/models", ""}, // an address of this machine, which the operator does not allow
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tc.url, http.NoBody)
		require.NoError(t, err)
		response, err := g.SendTest(tc.provider, tc.base, request)
		if tc.want == "" {
			require.Error(t, err, tc.url)
			require.Empty(t, asked)
			continue
		}
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusFound, response.StatusCode, "no redirect is followed")
		require.Equal(t, tc.want, <-asked)
	}
}

// The provider gets its own key in its own style. It gets no credential of the caller, in any style.
func TestCredentialsAreReplacedByTheKey(t *testing.T) {
	callers := map[string]http.Header{
		"bearer":         {"Authorization": {"Bearer " + callersKey}},
		"bearer, spaced": {"Authorization": {" bearer   " + callersKey + " "}},
		"x-api-key":      {"X-Api-Key": {callersKey}},
		"x-goog-api-key": {"X-Goog-Api-Key": {callersKey}},
		"api-key":        {"Api-Key": {callersKey}},
		"all of them": {
			"Authorization": {"Bearer " + callersKey}, "X-Api-Key": {callersKey},
			"X-Goog-Api-Key": {callersKey}, "Api-Key": {callersKey},
		},
		"a signature with it as the access key id": {
			"Authorization":        {"AWS4-HMAC-SHA256 Credential=" + callersKey + "/20261129/us-east-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature=0f"},
			"X-Amz-Date":           {"20261129T000000Z"},
			"X-Amz-Content-Sha256": {"0f"}, "X-Amz-Security-Token": {"t"},
		},
		"one, and others that are empty": {"Authorization": {"Bearer "}, "X-Api-Key": {callersKey}, "Api-Key": {""}},
	}
	providers := map[dataplane.AuthStyle][2]string{
		dataplane.AuthBearer:      {"Authorization", "Bearer " + providersKey},
		dataplane.AuthXAPIKey:     {"X-Api-Key", providersKey},
		dataplane.AuthXGoogAPIKey: {"X-Goog-Api-Key", providersKey},
		dataplane.AuthAPIKey:      {"Api-Key", providersKey},
	}
	for style, want := range providers {
		seen := make(chan http.Header, 1)
		base := provider(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
		gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", style, base, providersKey)))
		for name, header := range callers {
			t.Run(string(style)+" for "+name, func(t *testing.T) {
				r := request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}"))
				r.Header = header.Clone()
				res, body := do(t, r)
				require.Equal(t, 200, res.StatusCode, body)
				got := <-seen
				require.Equal(t, []string{want[1]}, got[want[0]])
				delete(got, want[0])
				for _, credential := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Content-Sha256"} {
					require.NotContains(t, got, credential)
				}
				requireUnmarked(t, fmt.Sprint(got), fmt.Sprint(res.Header), gw.log.String())
			})
		}
	}
}

func TestPrivateHeadersAreRemoved(t *testing.T) {
	seen := make(chan *http.Request, 1)
	gw := openAI(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
	r := request(t, "POST", gw.URL+"/openai/chat?model=a&token="+callersKey, strings.NewReader("{}"))
	private := map[string]string{
		"Cookie": "a=b", "Forwarded": "for=1.2.3.4", "Via": "1.1 x", "X-Real-Ip": "1.2.3.4", "True-Client-Ip": "1.2.3.4", "Ocp-Apim-Subscription-Key": "x",
		"X-Original-Url": "/admin", "X-Rewrite-Url": "/admin",
		"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "x", "X-Forwarded-Port": "1", "X-Forwarded-Client-Cert": "x",
		"Agentrouter-Project": "chat", "Agentrouter-Anything": "x", "X-Copy-Of-Auth": "key " + callersKey,
		"Keep-Alive": "x", "X-Hop": "x", "Proxy-Authorization": "Basic x", "Connection": "X-Hop",
	}
	for name, value := range private {
		r.Header.Set(name, value)
	}
	r.Header.Set("Openai-Beta", "assistants=v2")
	r.Header.Set("Accept-Encoding", "br")
	res, body := do(t, r)
	require.Equal(t, 200, res.StatusCode, body)
	got := <-seen
	for name := range private {
		require.NotContains(t, got.Header, name)
	}
	require.Equal(t, "assistants=v2", got.Header.Get("Openai-Beta"))
	require.Equal(t, "identity", got.Header.Get("Accept-Encoding"), "answers are searched for the key")
	require.Equal(t, "Go-http-client/1.1", got.Header.Get("User-Agent"))
	require.Equal(t, "model=a", got.URL.RawQuery)
	require.NotContains(t, got.Host, strings.TrimPrefix(gw.URL, "http://"))
	require.Equal(t, "chat", gw.Calls().Requests[0].ProjectID)
}

func TestGeminiKeyInTheQuery(t *testing.T) {
	seen := make(chan *http.Request, 1)
	base := provider(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
	gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "gemini", dataplane.AuthXGoogAPIKey, base+"/v1beta", providersKey)))
	for _, query := range []string{"alt=sse&key=" + callersKey, "%6bey=" + callersKey + "&alt=sse", "alt=sse&key="} {
		r := request(t, "POST", gw.URL+"/gemini/v1beta/models/m:streamGenerateContent?"+query, strings.NewReader("{}"))
		if strings.Contains(query, callersKey) {
			r.Header.Del("Authorization")
		}
		res, body := do(t, r)
		require.Equal(t, 200, res.StatusCode, body)
		got := <-seen
		require.Equal(t, "alt=sse", got.URL.RawQuery)
		require.Equal(t, "/v1beta/models/m:streamGenerateContent", got.URL.Path)
		require.Equal(t, providersKey, got.Header.Get("X-Goog-Api-Key"))
	}
}

func TestResponseHeaders(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"Set-Cookie", "Alt-Svc", "Strict-Transport-Security"} {
			w.Header().Set(name, "x=y")
		}
		w.Header().Set("X-Request-Id", "req_theirs")
		w.Header().Set("Agentrouter-Key-Id", "forged")
		w.WriteHeader(http.StatusTeapot)
	})
	res, _ := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
	require.Equal(t, http.StatusTeapot, res.StatusCode)
	for _, name := range []string{"Set-Cookie", "Alt-Svc", "Strict-Transport-Security"} {
		require.NotContains(t, res.Header, name)
	}
	require.Equal(t, "req_theirs", res.Header.Get("X-Request-Id"))
	require.Equal(t, []string{dataplanetest.NewKeyID}, res.Header["Agentrouter-Key-Id"])
	require.Equal(t, "project_key", res.Header.Get("Agentrouter-Reason"))
	require.Len(t, res.Header.Get("Agentrouter-Request-Id"), 26)
}

// net/http merges the trailers into the request after its head was passed on.
func TestTrailers(t *testing.T) {
	seen := make(chan http.Header, 1)
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Digest")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen <- r.Trailer
		_, _ = w.Write(body)
		w.Header().Set("X-Digest", "theirs")
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(gw.URL, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "POST /openai/chat HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n"+
		"Trailer: X-Mine\r\n\r\n2\r\n{}\r\n0\r\nX-Mine: 1\r\nX-Api-Key: %s\r\n\r\n", callersKey, callersKey)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	_, body := read(t, res)
	require.Equal(t, "{}", body)
	require.Equal(t, http.Header{"X-Digest": {"theirs"}}, res.Trailer)
	require.Equal(t, http.Header{"X-Mine": {"1"}}, <-seen)
}

func TestLinksLeadBackThroughTheGateway(t *testing.T) {
	const origin = "https://gateway.example"
	caller := httptest.NewRequest(http.MethodGet, origin+"/groq/batches", nil)
	parse := func(text string) *url.URL {
		u, err := url.Parse(text)
		require.NoError(t, err)
		return u
	}
	sent := parse("https://provider.example/openai/v1/batches?limit=1")
	to, err := newDestination(&dataplane.Key{BaseURL: "https://provider.example/openai/v1", Routes: []dataplane.Route{{Path: "/upload"}}}, nil)
	require.NoError(t, err)
	p := &proxiedRequest{destination: to, incoming: caller, provider: "groq", caller: dataplane.Request{Credential: "ak_a&b"}}
	for link, want := range map[string]string{
		"https://provider.example/openai/v1/batches/b1":          origin + "/groq/batches/b1",
		"https://PROVIDER.example/openai/v1/files?after=f%2F1#x": origin + "/groq/files?after=f%2F1#x",
		"https://provider.example:443/openai/v1/batches/b1":      origin + "/groq/batches/b1",
		"https://provider.example./openai/v1/batches/b1":         origin + "/groq/batches/b1",
		"http://provider.example:80/openai/v1/batches/b1":        origin + "/groq/batches/b1",
		"https://provider.example:8443/openai/v1/batches/b1":     "https://provider.example:8443/openai/v1/batches/b1",
		"/openai/v1/batches/b1":                                  origin + "/groq/batches/b1",
		"b1":                                                     origin + "/groq/b1",
		"?after=b1":                                              origin + "/groq/batches?after=b1",
		"https://provider.example/openai/v1":                     origin + "/groq",
		"https://u:p@provider.example/openai/v1/a":               origin + "/groq/a",
		"https://provider.example/openai/v10/a":                  "",
		"https://provider.example/admin":                         "",
		"https://provider.example/upload/v1/files?upload_id=u":   origin + "/groq/upload/v1/files?upload_id=u",
		"https://provider.example/uploads":                       "",
		"//provider.example/admin":                               "",
		"https://files.example/signed?key=1":                     "https://files.example/signed?key=1",
		"https://%zz":                                            "",
	} {
		header := http.Header{"Location": {link}, "Operation-Location": {link, link}}
		p.rewriteLinks(header, sent)
		require.Equal(t, want, header.Get("Location"), link)
		require.Equal(t, want, header.Get("Operation-Location"), link)
	}
	header := http.Header{"Link": {`<https://provider.example/openai/v1/b?page=2>; rel="next", </admin>; rel="last", <https://docs.example>; rel="help"`}}
	p.rewriteLinks(header, sent)
	require.Equal(t, `<`+origin+`/groq/b?page=2>; rel="next", <>; rel="last", <https://docs.example>; rel="help"`, header.Get("Link"))
	for link, want := range map[string]string{
		"https://provider.example/upload/f?upload_id=u": origin + "/gemini/upload/f?upload_id=u&key=ak_a%26b",
		"https://provider.example/upload/f":             origin + "/gemini/upload/f?key=ak_a%26b",
		"https://provider.example/upload/f?key=***&u=1": origin + "/gemini/upload/f?u=1&key=ak_a%26b",
		"https://files.example/upload/f":                "https://files.example/upload/f", // the credential goes nowhere else
	} {
		p.provider = "gemini"
		header := http.Header{"X-Goog-Upload-Url": {link}}
		p.rewriteLinks(header, sent)
		require.Equal(t, want, header.Get("X-Goog-Upload-Url"), link)
	}
	for forwarded, want := range map[string]string{
		"https": origin + "/gemini/upload/f?key=ak_a%26b", "https, http": origin + "/gemini/upload/f?key=ak_a%26b",
		"http": "http://gateway.example/gemini/upload/f", "": "http://gateway.example/gemini/upload/f", // no credential in the clear
	} {
		p.incoming = httptest.NewRequest(http.MethodGet, "http://gateway.example/gemini/upload", nil)
		p.incoming.Header.Set("X-Forwarded-Proto", forwarded)
		header := http.Header{"X-Goog-Upload-Url": {"https://provider.example/upload/f"}}
		p.rewriteLinks(header, sent)
		require.Equal(t, want, header.Get("X-Goog-Upload-Url"), forwarded)
	}
}

func TestLinksInDocumentsLeadBack(t *testing.T) {
	const origin = "https://gateway.example/gemini"
	sent := &url.URL{Scheme: "http", Host: "upstream.example", Path: "/google/v1beta/files"}
	key := &dataplane.Key{BaseURL: "https://provider.example/v1beta", Provider: "gemini", Routes: []dataplane.Route{{Path: "/download"}, {Path: "/v1"}}}
	to, err := newDestination(key, &url.URL{Scheme: "http", Host: "127.0.0.1:8080", Path: "/google/v1beta"})
	require.NoError(t, err)
	p := &proxiedRequest{destination: to, incoming: httptest.NewRequest(http.MethodGet, origin, nil), provider: "gemini"}
	for document, want := range map[string]string{
		`{"uri": "https://provider.example/v1beta/files/f1:download?alt=media"}`:             `{"uri": "` + origin + `/files/f1:download?alt=media"}`,
		`{"next":"http:\/\/127.0.0.1:8080\/google\/v1beta\/files?a=1\u0026b=2" , "n" : 1.0}`: `{"next":"` + origin + `/files?a=1&b=2" , "n" : 1.0}`,
		`[["https://provider.example/download/x"], {"a": {"b": "http://upstream.example/google/v1beta/b"}}]`: `[["` +
			origin + `/download/x"], {"a": {"b": "` + origin + `/b"}}]`,
		`"https://provider.example/v1/m"`: `"` + origin + `/v1/m"`,

		`{"uri": "https://provider.example/v1beta/files/f1"}`:                               "", // a name, which generateContent takes
		`{"a": "https://provider.example/settings", "b": "//provider.example/v1"}`:          "",
		`{"a": "see https://provider.example/v1beta/files", "b": "/v1beta/files"}`:          "",
		`{"a": "https://files.example/v1beta/files", "b": "wss://provider.example/v1beta"}`: "",
		`{"https://provider.example/v1beta/files": 1, "a": "b", "a": null}`:                 "",
		`{"a": "https://provider.example/v1beta/x"`:                                         `{"a": "` + origin + `/x"`,
		`<a href="https://provider.example/v1beta/x">`:                                      "",
		``: "",
	} {
		if want == "" {
			want = document
		}
		require.Equal(t, want, string(p.rewriteLinksIn([]byte(document), sent)), document)
	}
}
