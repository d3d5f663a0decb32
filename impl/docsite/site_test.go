package docsite_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/docsite"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is the site on an API that is not ready, because its database is not available.
type service struct {
	*httptest.Server
	registry *prometheus.Registry
}

func start(t *testing.T, cfg docsite.Config, serve ...func(*httptest.Server)) service {
	t.Helper()
	cfg.Problems = tables()
	site, err := docsite.New(cfg)
	require.NoError(t, err)
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	registry := prometheus.NewRegistry()
	observer, err := httpapi.NewObserver("public", slog.New(slog.DiscardHandler), registry, nil)
	require.NoError(t, err)
	api, err := httpapi.NewAPI(httpapi.Config{
		Document: doc, Problems: aikeys.Problems(), Observer: observer, Ready: func() bool { return false }, Site: site,
		Authenticate: func(echo.HandlerFunc) echo.HandlerFunc {
			return func(echo.Context) error { return auth.ErrUnauthenticated }
		},
	})
	require.NoError(t, err)
	gen.RegisterHandlersWithOptions(api.Echo, gen.NewStrictHandler(struct{ gen.StrictServerInterface }{}, nil),
		gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	server := httptest.NewUnstartedServer(api.Echo)
	for _, start := range serve {
		start(server)
	}
	if len(serve) == 0 {
		server.Start()
	}
	t.Cleanup(server.Close)
	server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return service{server, registry}
}

type reply struct {
	*http.Response
	body string
}

// ask sends a request with headers, given as names and values in turn. Host sets the request's host.
func (s service) ask(t *testing.T, method, path string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, http.NoBody)
	require.NoError(t, err)
	req.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	response, err := s.Client().Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return reply{response, string(body)}
}

func (s service) get(t *testing.T, path string, header ...string) reply {
	t.Helper()
	return s.ask(t, http.MethodGet, path, header...)
}

// everyPath returns all paths of the site except redirects and downloads.
func everyPath() []string {
	paths := []string{
		"/llms.txt", "/openapi.yaml", "/openapi.json", "/docs", "/docs/getting-started", "/docs/sdks", "/docs/downloads", "/docs/problems",
		"/docs/assets/site.css",
		"/docs/assets/site.js", "/docs/assets/search.js", "/docs/assets/reference.css", "/docs/assets/reference.js", "/docs/assets/icon.svg",
		"/docs/guides", "/docs/guides/gateway", "/docs/guides/security", "/docs/guides/troubleshooting", "/docs/guides/operations",
		"/docs/guides/revocation.svg", "/docs/guides/console/keys.png", "/docs/guides/samples/litellm/aikeys.py", "/docs/guides/agent.openapi.yaml",
		"/console", "/console/keys", "/console/keys/byok_01M83VVAHV8M2T5K7N9R4W1XYZ", "/console/app.js", "/console/app-more.js", "/console/app.css", "/console/licences.txt",
	}
	for _, p := range problem.Types(tables()...) {
		paths = append(paths, "/problems/"+p.Slug)
	}
	return paths
}

func TestSiteNeedsNoSessionAndNoDatabase(t *testing.T) {
	s := start(t, docsite.Config{})
	require.Equal(t, http.StatusServiceUnavailable, s.get(t, "/v1/whoami").StatusCode, "the API is not ready")
	for _, path := range everyPath() {
		t.Run(path, func(t *testing.T) {
			got := s.get(t, path)
			require.Equal(t, http.StatusOK, got.StatusCode)
			require.NotEmpty(t, got.body)
			require.NotContains(t, got.body, "reader.invalid", "the reader's base URL is in its place")
			require.Len(t, got.Header.Get("X-Request-Id"), 26)
			require.Equal(t, "nosniff", got.Header.Get("X-Content-Type-Options"))
			require.Equal(t, "no-referrer", got.Header.Get("Referrer-Policy"))
			policy := got.Header.Get("Content-Security-Policy")
			require.Contains(t, policy, "default-src 'none'")
			require.Contains(t, policy, "frame-ancestors 'none'")
			require.NotContains(t, policy, "unsafe-eval")
			require.NotRegexp(t, `script-src[^;]*(unsafe|http|\*)`, policy)
			require.NotContains(t, policy, "unsafe-inline")
			if !strings.HasPrefix(path, "/console") {
				require.Equal(t, path == "/docs", strings.Contains(policy, "connect-src 'self'"), "the reference alone sends requests")
			}
		})
	}
	families, err := s.registry.Gather()
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(families), `value:"page"`, "they are counted")
}

func TestUnknownPathsAreNotFound(t *testing.T) {
	s := start(t, docsite.Config{Downloads: packed(t)})
	for _, path := range []string{
		"/", "/problems/x", "/problems/not-found/", "/problems/../docs", "/docs/x", "/docs/assets", "/docs/assets/",
		"/docs/downloads/", "/docs/downloads/notes.txt", "/docs/downloads/..%2fsecret", "/docs/downloads/../secret", "/docs/guides/README", "/docs/guides/gateway.md", "/docs/guides/docs.go", "/docs/guides/console/",
		"/docs/downloads/agentrouter-go-0.1.0.tar.gz", "/docs//sdks", "/templates/layout.html", "/DOCS", "/docs%2fsdks%00",
		"/console/app.map", "/console/index.html", "/console/../secret.txt", "/consoles", "/CONSOLE",
	} {
		got := s.get(t, path)
		require.Equal(t, http.StatusNotFound, got.StatusCode, path)
		require.Equal(t, problem.ContentType, got.Header.Get("Content-Type"))
		require.Equal(t, "no-store", got.Header.Get("Cache-Control"))
	}
}

func TestLLMsTextListsEveryOperation(t *testing.T) {
	s := start(t, docsite.Config{})
	got := s.get(t, "/llms.txt")
	require.Equal(t, "text/plain; charset=utf-8", got.Header.Get("Content-Type"))
	require.Contains(t, got.body, "- Register an AI key: POST /v1/customers/{customer_id}/projects/{project_id}/aikeys\n")
	require.Contains(t, got.body, "("+s.URL+"/openapi.yaml)")
	require.NotRegexp(t, `&#?\w+;|<no value>`, got.body)
}

func TestBrowsersGetAPageWhereThereIsNothing(t *testing.T) {
	s := start(t, docsite.Config{})
	got := s.get(t, "/dosc", "Accept", "text/html")
	require.Equal(t, http.StatusNotFound, got.StatusCode)
	require.Contains(t, got.body, "There is no such page")
	require.NotContains(t, got.body, "reader.invalid")
	require.Contains(t, got.Header.Get("Content-Security-Policy"), "default-src 'none'")
	for _, path := range []string{"/v1", "/v1/nothing"} {
		got := s.get(t, path, "Accept", "text/html")
		require.Equal(t, problem.ContentType, got.Header.Get("Content-Type"), "the API answers as it does: %s", path)
	}
}

func TestRedirects(t *testing.T) {
	s := start(t, docsite.Config{})
	const browser = "text/html,application/xhtml+xml,*/*;q=0.8"
	for path, to := range map[string]string{"/": "/docs", "/docs/": "/docs", "/docs/guides/": "/docs/guides", "/problems": "/docs/problems", "/problems/": "/docs/problems"} {
		got := s.get(t, path, "Accept", browser)
		require.Equal(t, http.StatusFound, got.StatusCode, path)
		require.Equal(t, to, got.Header.Get("Location"))
	}
	require.Equal(t, http.StatusNotFound, s.get(t, "/", "Accept", "application/json").StatusCode)
	require.Equal(t, http.StatusNotFound, s.ask(t, http.MethodPost, "/", "Accept", browser).StatusCode)
}

func TestDocumentsDifferFromSpecOnlyInServers(t *testing.T) {
	s := start(t, docsite.Config{})
	repository, err := os.ReadFile("../../spec/aikeys.yaml")
	require.NoError(t, err)
	var want map[string]any
	require.NoError(t, yaml.Unmarshal(repository, &want))
	want["servers"] = []any{map[string]any{"url": s.URL, "description": "This installation."}}
	expected, err := json.Marshal(want)
	require.NoError(t, err)

	text := s.get(t, "/openapi.yaml")
	require.Equal(t, "application/yaml", text.Header.Get("Content-Type"))
	var fromYAML map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text.body), &fromYAML))
	got, err := json.Marshal(fromYAML)
	require.NoError(t, err)
	require.JSONEq(t, string(expected), string(got))

	asJSON := s.get(t, "/openapi.json")
	require.Equal(t, "application/json", asJSON.Header.Get("Content-Type"))
	require.JSONEq(t, string(expected), asJSON.body)
	require.Less(t, strings.Index(asJSON.body, `"registerKey"`), strings.Index(asJSON.body, `"getKey"`), "in the document's order")
	require.Contains(t, asJSON.body, `"x-secret": true`)

	for _, document := range []string{text.body, asJSON.body} {
		doc, err := openapi3.NewLoader().LoadFromData([]byte(document))
		require.NoError(t, err)
		require.NoError(t, doc.Validate(t.Context(), openapi3.EnableExamplesValidation(), openapi3.EnableSchemaFormatValidation()))
	}
}
