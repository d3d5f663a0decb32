package docsite_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	gendataplane "github.com/agentrouter/aikeys/gen/dataplane"
	gensecrets "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/docsite"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is the site on an API that is not ready, because its database is not available.
type service struct {
	*httptest.Server
	registry *prometheus.Registry
}

// plainSite is the site without settings, which renders its pages once for all tests.
var plainSite = sync.OnceValues(func() (*docsite.Site, error) { return docsite.New(docsite.Config{Problems: tables()}) })

// start serves the site of a configuration; without one, it serves plainSite.
func start(t *testing.T, configs ...docsite.Config) service {
	t.Helper()
	site, err := plainSite()
	for _, cfg := range configs {
		cfg.Problems = tables()
		site, err = docsite.New(cfg)
	}
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
	server := httptest.NewServer(api.Echo)
	t.Cleanup(server.Close)
	server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return service{server, registry}
}

type reply struct {
	*http.Response
	body string
}

// ask sends a request. header has names and values of headers in turn. Host sets the request's host.
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

// No path needs a session or a database. Each answers only GET and HEAD, and its answer can be cached.
func TestEveryPath(t *testing.T) {
	s := start(t)
	require.Equal(t, http.StatusServiceUnavailable, s.get(t, "/v1/whoami").StatusCode, "the API is not ready")
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
	for _, path := range paths {
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
			head := s.ask(t, http.MethodHead, path)
			require.Equal(t, http.StatusOK, head.StatusCode, path)
			require.Empty(t, head.body)
			require.EqualValues(t, len(got.body), head.ContentLength, path)
			require.Equal(t, got.Header.Get("ETag"), head.Header.Get("ETag"))
			for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
				refused := s.ask(t, method, path)
				require.Equal(t, http.StatusMethodNotAllowed, refused.StatusCode)
				require.Equal(t, "GET, HEAD", refused.Header.Get("Allow"))
				require.Contains(t, refused.body, `"code":"invalid_argument"`)
			}
			tag := got.Header.Get("ETag")
			require.NotEmpty(t, tag, path)
			for _, known := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
				unchanged := s.get(t, path, "If-None-Match", known)
				require.Equal(t, http.StatusNotModified, unchanged.StatusCode, "%s %s", path, known)
				require.Empty(t, unchanged.body)
				require.Equal(t, tag, unchanged.Header.Get("ETag"))
				require.Contains(t, unchanged.Header.Get("Cache-Control"), "no-cache")
			}
			require.Equal(t, http.StatusOK, s.get(t, path, "If-None-Match", `"other"`).StatusCode)
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
	s := start(t)
	got := s.get(t, "/llms.txt")
	require.Equal(t, "text/plain; charset=utf-8", got.Header.Get("Content-Type"))
	require.Contains(t, got.body, "- Register an AI key: POST /v1/customers/{customer_id}/projects/{project_id}/aikeys\n")
	require.Contains(t, got.body, "("+s.URL+"/openapi.yaml)")
	require.NotRegexp(t, `&#?\w+;|<no value>`, got.body)
}

func TestBrowsersGetAPageWhereThereIsNothing(t *testing.T) {
	s := start(t)
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
	s := start(t)
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
	s := start(t)
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

func TestBaseURL(t *testing.T) {
	plain := start(t)
	secure := service{Server: httptest.NewTLSServer(plain.Config.Handler)}
	t.Cleanup(secure.Close)
	behind := start(t, docsite.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	elsewhere := start(t, docsite.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	forwarded := []string{"Host", "inside:1", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "keys.example.com"}
	const fallback = "http://127.0.0.1:8080" // the document's first server
	cases := map[string]struct {
		service service
		header  []string
		want    string
	}{
		"a name":                            {plain, []string{"Host", "Keys.example.com:8443"}, "http://keys.example.com:8443"},
		"a name in a private network":       {plain, []string{"Host", "ai_keys"}, "http://ai_keys"},
		"an IPv6 address":                   {plain, []string{"Host", "[2001:db8::1]:80"}, "http://[2001:db8::1]:80"},
		"HTTPS":                             {secure, []string{"Host", "keys.example.com"}, "https://keys.example.com"},
		"a trusted proxy":                   {behind, forwarded, "https://keys.example.com"},
		"a trusted proxy that adds to it":   {behind, []string{"Host", "in", "X-Forwarded-Host", "evil.example, keys.example.com"}, "http://keys.example.com"},
		"a trusted proxy without a word":    {behind, []string{"Host", "keys.example.com"}, "http://keys.example.com"},
		"a proxy with a strange scheme":     {behind, []string{"Host", "a", "X-Forwarded-Proto", "javascript"}, "http://a"},
		"a proxy with a strange host":       {behind, []string{"Host", "a", "X-Forwarded-Host", `"><script>`}, fallback},
		"a stranger who says it is a proxy": {plain, forwarded, "http://inside:1"},
		"another than the trusted proxy":    {elsewhere, forwarded, "http://inside:1"},
		"a script":                          {plain, []string{"Host", "<script>alert(1)</script>"}, fallback},
		"a shell's command":                 {plain, []string{"Host", "a;reboot"}, fallback},
		"another shell's command":           {plain, []string{"Host", "$(reboot)"}, fallback},
		"a quote":                           {plain, []string{"Host", `a"b`}, fallback},
		"a user":                            {plain, []string{"Host", "user@evil.example"}, fallback},
		"a long name":                       {plain, []string{"Host", strings.Repeat("a", 300)}, fallback},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/docs/getting-started", "/docs/sdks", "/openapi.yaml", "/openapi.json"} {
				got := tc.service.get(t, path, tc.header...)
				if got.StatusCode == http.StatusBadRequest {
					require.Equal(t, fallback, tc.want, "net/http refuses it before we see it")
					continue
				}
				require.Contains(t, got.body, tc.want, path)
				for _, marked := range []string{"<script>a", "reboot", `a"b`, "evil.example"} {
					require.NotContains(t, got.body, marked, path)
				}
			}
		})
	}
}

func TestConsolePolicyHasNoException(t *testing.T) {
	s := start(t)
	page := s.get(t, "/console/keys")
	require.Equal(t, "text/html; charset=utf-8", page.Header.Get("Content-Type"))
	policy := page.Header.Get("Content-Security-Policy")
	require.NotRegexp(t, `unsafe|\*|https?:|data:|blob:|nonce|sha256`, policy)
	require.Contains(t, policy, "connect-src 'self'")
	require.Contains(t, policy, "require-trusted-types-for 'script'")
	require.NotRegexp(t, `<style| style=|<script>| on\w+=|https?://`, page.body, "nothing inline, nothing from elsewhere")
}

func TestConsoleMayAskTheIssuer(t *testing.T) {
	var given []string
	s := start(t, docsite.Config{SignInServers: func(context.Context) []string { return given }})
	tags := map[string]bool{}
	for servers, urls := range map[string][]string{
		"'self'":                                          nil,
		"'self' https://login.example.com":                {"https://login.example.com/realms/acme", "https://login.example.com/token"},
		"'self' http://127.0.0.1:9000":                    {"http://127.0.0.1:9000"},
		"'self' https://a.example https://b.example:8443": {"https://a.example", "https://b.example:8443/token"},
		"'self' https://c.example":                        {"https://c.example", "https://d.example;script-src", "https://*", "nothing"},
	} {
		given = urls
		page := s.get(t, "/console")
		require.Contains(t, page.Header.Get("Content-Security-Policy"), "; connect-src "+servers+"; ")
		tags[page.Header.Get("ETag")] = true
	}
	require.Len(t, tags, 5, "a page with another policy is another page")
}

func TestBrowsersAskWhetherTheConsoleHasChanged(t *testing.T) {
	s := start(t)
	page := s.get(t, "/console").body
	for _, path := range []string{"/console/app.js", "/console/app-more.js", "/console/app.css"} {
		require.Equal(t, path != "/console/app-more.js", strings.Contains(page, `"`+path+`"`), path)
		require.Equal(t, "no-cache", s.get(t, path).Header.Get("Cache-Control"))
		zipped := s.get(t, path, "Accept-Encoding", "gzip")
		require.Equal(t, "gzip", zipped.Header.Get("Content-Encoding"))
		require.Equal(t, "Accept-Encoding", zipped.Header.Get("Vary"))
		require.Equal(t, http.StatusNotModified, s.get(t, path, "Accept-Encoding", "gzip", "If-None-Match", zipped.Header.Get("ETag")).StatusCode)
		require.Less(t, len(zipped.body), 110<<10, "what a browser loads before it shows anything")
	}
}

func TestResourcesAreCached(t *testing.T) {
	s := start(t)
	t.Run("the entity tag depends on the host", func(t *testing.T) {
		tag := s.get(t, "/openapi.yaml").Header.Get("ETag")
		require.NotEqual(t, tag, s.get(t, "/openapi.yaml", "Host", "keys.example.com").Header.Get("ETag"))
		require.Contains(t, s.get(t, "/openapi.yaml").Header.Get("Cache-Control"), "private", "and no shared cache keeps it")
	})
	t.Run("versioned links are cached forever", func(t *testing.T) {
		link := regexp.MustCompile(`/docs/assets/site\.css\?v=\w+`).FindString(s.get(t, "/docs").body)
		require.Contains(t, s.get(t, link).Header.Get("Cache-Control"), "immutable")
		require.Equal(t, "no-cache", s.get(t, "/docs/assets/site.css?v=another").Header.Get("Cache-Control"))
	})
	require.Equal(t, "no-store", s.get(t, "/v1/whoami").Header.Get("Cache-Control"), "the API's answers are not kept")
}

func TestGzipNegotiation(t *testing.T) {
	s := start(t)
	const path = "/docs/assets/search.js"
	plain := s.get(t, path)
	require.Empty(t, plain.Header.Get("Content-Encoding"))
	for _, accepted := range []string{"gzip", "br, GZIP;q=0.5", "deflate,gzip"} {
		got := s.get(t, path, "Accept-Encoding", accepted)
		require.Equal(t, "gzip", got.Header.Get("Content-Encoding"), accepted)
		require.Equal(t, "Accept-Encoding", got.Header.Get("Vary"))
		require.NotEqual(t, plain.Header.Get("ETag"), got.Header.Get("ETag"))
		reader, err := gzip.NewReader(strings.NewReader(got.body))
		require.NoError(t, err)
		unzipped, err := io.ReadAll(reader)
		require.NoError(t, err)
		require.Equal(t, sha256.Sum256([]byte(plain.body)), sha256.Sum256(unzipped))
	}
	for _, accepted := range []string{"br", "gzip;q=0", "*", "gzip;q=x"} {
		require.Empty(t, s.get(t, path, "Accept-Encoding", accepted).Header.Get("Content-Encoding"), accepted)
	}
}

func TestRanges(t *testing.T) {
	s := start(t)
	whole := s.get(t, "/docs/assets/site.css")
	part := s.get(t, "/docs/assets/site.css", "Range", "bytes=2-5")
	require.Equal(t, http.StatusPartialContent, part.StatusCode)
	require.Equal(t, whole.body[2:6], part.body)
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	s := start(t, docsite.Config{Downloads: packed(t)})
	linked := regexp.MustCompile(`(?:href|src|data-index)="([^"]*)"`)
	inline := regexp.MustCompile(`(?i)<script(>| [^>]*>[^<])|<style|\son[a-z]+=|\sstyle=|javascript:`)
	text := regexp.MustCompile(`>[^<]+<`) // text between tags, which may be a guide's code with anything in it
	pages, guides := map[string]string{}, 0
	links := [][2]string{{"", "/docs"}} // the path of a page, and the target of a link on it
	for i := 0; i < len(links); i++ {
		path, _, _ := strings.Cut(links[i][1], "#")
		if _, seen := pages[path]; seen || !strings.HasPrefix(path, "/") {
			continue
		}
		got := s.get(t, path)
		require.Equal(t, http.StatusOK, got.StatusCode, "%s links to %s", links[i][0], path)
		pages[path] = got.body
		if !strings.HasPrefix(got.Header.Get("Content-Type"), "text/html") {
			continue
		}
		require.NotRegexp(t, inline, text.ReplaceAllString(got.body, ""), "the policy forbids inline scripts and styles: %s", path)
		if strings.HasPrefix(path, "/docs/guides/") {
			guides++
		}
		for _, m := range linked.FindAllStringSubmatch(got.body, -1) {
			target := html.UnescapeString(m[1])
			if strings.HasPrefix(target, "#") {
				target = path + target
			}
			links = append(links, [2]string{path, target})
		}
	}
	for _, link := range links {
		target, anchor, _ := strings.Cut(link[1], "#")
		switch {
		case strings.Contains(target, "://"):
			require.Regexp(t, `^(https://|`+regexp.QuoteMeta(s.URL)+`)`, target, "%s links to it", link[0])
		case anchor != "":
			require.Contains(t, pages[target], ` id="`+anchor+`"`, "%s links to %s", link[0], link[1])
		}
	}
	require.Contains(t, pages, "/console")
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	require.Equal(t, len(files)-1, guides, "every page of docs/ but README.md is a guide")
}

func TestProblemPages(t *testing.T) {
	s := start(t)
	list := s.get(t, "/docs/problems").body
	types := problem.Types(tables()...)
	require.Greater(t, len(types), 15)
	source, err := os.ReadFile("problems.yaml")
	require.NoError(t, err)
	var texts map[string]struct{ Meaning, Advice, Gateway any }
	require.NoError(t, yaml.Unmarshal(source, &texts))
	var slugs, explained []string
	for slug, text := range texts {
		if text.Meaning != nil && text.Advice != nil && text.Gateway == nil {
			explained = append(explained, slug)
		}
	}
	for _, p := range types {
		slugs = append(slugs, p.Slug)
	}
	require.ElementsMatch(t, slugs, explained, "the APIs' tables and impl/docsite/problems.yaml have the same types")
	for _, p := range types {
		t.Run(p.Slug, func(t *testing.T) {
			require.Contains(t, list, `<a href="/problems/`+p.Slug+`">`+p.Title+`</a>`)
			page := html.UnescapeString(s.get(t, "/problems/"+p.Slug).body)
			require.Contains(t, page, "<h1>"+p.Title+"</h1>")
			require.Contains(t, page, fmt.Sprintf("<dd>%d %s</dd>", p.Status, http.StatusText(p.Status)))
			require.Contains(t, page, "<dd><code>"+p.Code+"</code></dd>")
			for _, detail := range p.Details {
				require.Contains(t, page, "<li>"+detail+"</li>")
			}
			_, example, _ := strings.Cut(page, "<pre>")
			example, _, _ = strings.Cut(example, "</pre>")
			_, body, found := strings.Cut(example, "\n\n")
			require.True(t, found)
			var got problem.Document
			require.NoError(t, json.Unmarshal([]byte(body), &got))
			got.Errors = nil
			require.Equal(t, p.Document(got.RequestID), got)
		})
	}
}

// tables returns the tables of all APIs.
func tables() []problem.Table {
	return []problem.Table{aikeys.Problems(), dataplane.Problems(), secrets.Problems()}
}

func TestProblemStatuses(t *testing.T) {
	everywhere := map[error]int{
		problem.ErrInvalid: 400, httpapi.ErrNoRoute: 404, httpapi.ErrMethodNotAllowed: 405, httpapi.ErrTooLarge: 413, httpapi.ErrMediaType: 415,
		httpapi.ErrTooManyRequests: 429, httpapi.ErrInternal: 500, errors.New("unforeseen"): 500, context.DeadlineExceeded: 500,
		httpapi.ErrNotReady: 503, context.Canceled: 503,
	}
	withStore := map[error]int{
		auth.ErrUnauthenticated: 401, models.ErrSessionEnded: 401, models.ErrDataPlaneEnded: 401, models.ErrNotMember: 403, models.ErrNotFound: 404,
		sealer.ErrBinding: 500, sealer.ErrUnknownKEK: 500, sealer.ErrMalformed: 500, sealer.ErrInvalidBinding: 500, sealer.ErrInvalidSecret: 500,
		models.ErrUnavailable: 503, sealer.ErrUnavailable: 503, auth.ErrIssuerUnavailable: 503,
	}
	for name, tc := range map[string]struct {
		table problem.Table
		want  []map[error]int
	}{
		"aikeys": {aikeys.Problems(), []map[error]int{everywhere, withStore, {
			models.ErrForbidden: 403, models.ErrAlreadyExists: 409, models.ErrLastOwner: 409, models.ErrIdempotencyReuse: 422,
		}}},
		"dataplane": {dataplane.Problems(), []map[error]int{everywhere, withStore, {
			models.ErrNotServed: 403, resolution.ErrKeyRevoked: 403, resolution.ErrNoKey: 404, resolution.ErrUserKeyRequired: 404,
			resolution.ErrCallerUnauthenticated: 422,
		}}},
		"secrets": {secrets.Problems(), []map[error]int{everywhere}},
	} {
		for _, statuses := range tc.want {
			for err, status := range statuses {
				require.Equal(t, status, tc.table.Find(fmt.Errorf("wrapped: %w", err)).Status, "%s: %s", name, err)
			}
		}
	}
}

func TestProblemsMatchDocuments(t *testing.T) {
	var documents []*openapi3.T
	for _, get := range []func() (*openapi3.T, error){gen.GetSpec, gendataplane.GetSpec, gensecrets.GetSpec} {
		document, err := get()
		require.NoError(t, err)
		documents = append(documents, document)
	}
	documented := map[string]bool{} // statuses
	for _, document := range documents {
		for _, item := range document.Paths.Map() {
			for _, op := range item.Operations() {
				for status := range op.Responses.Map() {
					documented[status] = true
				}
			}
		}
	}
	rows := slices.Concat(tables()...)
	var codes []string
	titles := map[string]string{} // by slug
	for _, row := range rows {
		if !slices.Contains(codes, row.Code) {
			codes = append(codes, row.Code)
		}
		if row.Status != http.StatusMethodNotAllowed { // no documented operation answers it
			require.True(t, documented[fmt.Sprint(row.Status)], "status %d", row.Status)
		}
		title, known := titles[row.Slug]
		require.True(t, !known || title == row.Title, "one type has one title (RFC 9457, section 3.1.3)")
		titles[row.Slug] = row.Title
		require.True(t, strings.HasSuffix(row.Detail, ".") && len(row.Detail) < 1024, row.Detail)
	}
	for _, document := range documents {
		t.Run(document.Info.Title, func(t *testing.T) {
			listed := document.Components.Schemas["Problem"].Value.Properties["code"].Value.Extensions["x-extensible-enum"]
			require.ElementsMatch(t, listed, codes)
			for name, response := range document.Components.Responses {
				media := response.Value.Content[problem.ContentType]
				examples := []any{media.Example}
				for _, example := range media.Examples {
					examples = append(examples, example.Value.Value)
				}
				examples = slices.DeleteFunc(examples, func(value any) bool { return value == nil })
				require.NotEmpty(t, examples, name)
				for _, value := range examples {
					text, err := json.Marshal(value)
					require.NoError(t, err)
					var example problem.Document
					require.NoError(t, json.Unmarshal(text, &example))
					example.Errors = nil
					require.True(t, slices.ContainsFunc(rows, func(row problem.Row) bool {
						want := row.Document(example.RequestID)
						return fmt.Sprint(want) == fmt.Sprint(example)
					}), "%s: %s is no answer of the tables", name, text)
				}
			}
		})
	}
}

// packed returns a folder with SDKs and files that must not be served.
func packed(t *testing.T) string {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "dist")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600))
	for name, body := range map[string]string{
		"agentrouter-go-0.1.0.tar.gz": "old", "agentrouter-go-0.10.0.tar.gz": "newest", "agentrouter-go-0.9.1.tar.gz": "older",
		"agentrouter-typescript-1.2.3.tar.gz": "typescript", "notes.txt": "notes", "agentrouter-go-1.tar.gz.bak": "notes",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600))
	}
	return dir
}

func TestNewestSDKsAreServed(t *testing.T) {
	s := start(t, docsite.Config{Downloads: packed(t)})
	page := s.get(t, "/docs/sdks").body
	for name, body := range map[string]string{"agentrouter-go-0.10.0.tar.gz": "newest", "agentrouter-typescript-1.2.3.tar.gz": "typescript"} {
		got := s.get(t, "/docs/downloads/"+name)
		require.Equal(t, http.StatusOK, got.StatusCode)
		require.Equal(t, body, got.body)
		require.Equal(t, "application/gzip", got.Header.Get("Content-Type"))
		require.Equal(t, `attachment; filename="`+name+`"`, got.Header.Get("Content-Disposition"))
		require.Contains(t, page, fmt.Sprintf("%x", sha256.Sum256([]byte(body))))
		require.Contains(t, page, "curl -sSfO "+s.URL+"/docs/downloads/"+name)
	}
	require.Contains(t, page, "go mod edit -require github.com/tetrateio/agentrouter-go@v0.10.0")
	require.Contains(t, page, "npm install ./third_party/agentrouter-typescript-1.2.3")
	require.NotContains(t, page, "pip install")
	require.NotContains(t, page, "has no downloads")
	for _, name := range []string{"agentrouter-go-0.1.0.tar.gz", "agentrouter-go-0.9.1.tar.gz", "notes.txt"} {
		require.Equal(t, http.StatusNotFound, s.get(t, "/docs/downloads/"+name).StatusCode, name)
	}
}

func TestPageWithoutDownloads(t *testing.T) {
	for name, folder := range map[string]string{"no folder": "", "an empty folder": t.TempDir()} {
		page := start(t, docsite.Config{Downloads: folder}).get(t, "/docs/sdks").body
		require.Contains(t, page, "has no downloads", name)
		require.Contains(t, page, "make dist")
		require.Contains(t, page, "AIKEYS_DOWNLOADS")
		require.NotContains(t, page, "curl -sSfO")
	}
}

// addProgram writes a file as "make dist" names it, with its hash beside it.
func addProgram(t *testing.T, dir, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("is "+name), 0o600))
	sum := fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte("is "+name)), name)
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".sha256"), []byte(sum), 0o600))
}

func TestNewestProgramsAreServed(t *testing.T) {
	dir := packed(t)
	newest := []string{
		"aikeys-1.10.0-linux-amd64.tar.gz", "aikeys-1.10.0-darwin-arm64.tar.gz", "tare-1.2.0+12.gabc1234567-windows-amd64.zip",
		"tare-1.10.0-linux-amd64.tar.gz", "aikeysd_1.10.0_amd64.deb", "tare_1.10.0_arm64.deb",
	}
	other := []string{
		"aikeys-1.9.0-linux-amd64.tar.gz", "tare-1.2.0+9.gabc1234567-windows-amd64.zip", "tare-1.2.0-windows-amd64.zip",
		"aikeys-1.10.0-plan9-amd64.tar.gz", "aikeys-latest-linux-amd64.tar.gz", "other_1.10.0_amd64.deb",
	}
	for _, name := range append(slices.Clone(newest), other...) {
		addProgram(t, dir, name)
	}
	s := start(t, docsite.Config{Downloads: dir})
	page := s.get(t, "/docs/downloads").body
	for _, name := range newest {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			got := s.ask(t, method, "/docs/downloads/"+name)
			require.Equal(t, http.StatusOK, got.StatusCode, name)
			require.Equal(t, method == http.MethodGet, got.body == "is "+name)
			require.Equal(t, `attachment; filename="`+name+`"`, got.Header.Get("Content-Disposition"))
			require.Equal(t, "nosniff", got.Header.Get("X-Content-Type-Options"))
		}
		require.Equal(t, "is", s.get(t, "/docs/downloads/"+name, "Range", "bytes=0-1").body, "a download can be resumed")
		require.Contains(t, html.UnescapeString(page), s.URL+"/docs/downloads/"+name)
		require.Contains(t, page, fmt.Sprintf("%x", sha256.Sum256([]byte("is "+name))))
	}
	for _, name := range append(other, newest[0]+".sha256") {
		require.Equal(t, http.StatusNotFound, s.get(t, "/docs/downloads/"+name).StatusCode, name)
	}
	require.Contains(t, page, "tare login --base-url "+s.URL)

	addProgram(t, dir, newest[0])
	require.NoError(t, os.WriteFile(filepath.Join(dir, newest[0]), []byte("another file"), 0o600))
	require.Equal(t, http.StatusNotFound, s.get(t, "/docs/downloads/"+newest[0]).StatusCode, "it is not the file of the hash")
}

func TestInvalidProgramsFailNew(t *testing.T) {
	const name = "tare-9.9.9-linux-amd64.tar.gz"
	for what, spoil := range map[string]func(dir string) error{
		"no hash": func(dir string) error { return os.Remove(filepath.Join(dir, name+".sha256")) },
		"another file's hash": func(dir string) error {
			return os.Rename(filepath.Join(dir, "tare-0.1.0-linux-arm64.tar.gz.sha256"), filepath.Join(dir, name+".sha256"))
		},
		"an empty file": func(dir string) error { return os.Truncate(filepath.Join(dir, name), 0) },
		"a link out of the folder": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, name)), os.Symlink("../secret", filepath.Join(dir, name)))
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := packed(t)
			addProgram(t, dir, name)
			addProgram(t, dir, "tare-0.1.0-linux-arm64.tar.gz")
			require.NoError(t, spoil(dir))
			_, err := docsite.New(docsite.Config{Downloads: dir})
			require.ErrorIs(t, err, docsite.ErrDownloads)
		})
	}
}

func TestInvalidDownloadsFailNew(t *testing.T) {
	const name = "agentrouter-go-9.9.9.tar.gz"
	for what, spoil := range map[string]func(dir string) error{
		"a link out of the folder": func(dir string) error { return os.Symlink("../secret", filepath.Join(dir, name)) },
		"an absolute link":         func(dir string) error { return os.Symlink("/etc/hostname", filepath.Join(dir, name)) },
		"a folder":                 func(dir string) error { return os.Mkdir(filepath.Join(dir, name), 0o700) },
		"an empty file":            func(dir string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o600) },
		"a huge file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), 8<<20+1), 0o600)
		},
		"nothing at all": os.RemoveAll,
	} {
		t.Run(what, func(t *testing.T) {
			dir := packed(t)
			require.NoError(t, spoil(dir))
			_, err := docsite.New(docsite.Config{Downloads: dir})
			require.ErrorIs(t, err, docsite.ErrDownloads)
		})
	}
}

// The name on PyPI belongs to somebody else's package. So the page installs our archive by its URL and hash, and warns.
func TestPythonSDKInstallsByURLWithItsHash(t *testing.T) {
	dir := packed(t)
	const name = "agentrouter-python-0.1.1.tar.gz"
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("python"), 0o600))
	s := start(t, docsite.Config{Downloads: dir})
	page := s.get(t, "/docs/sdks").body
	require.Contains(t, page, fmt.Sprintf("pip install 'agentrouter-sdk @ %s/docs/downloads/%s#sha256=%x'", s.URL, name, sha256.Sum256([]byte("python"))))
	require.Contains(t, page, "belongs to somebody else's package")
}
