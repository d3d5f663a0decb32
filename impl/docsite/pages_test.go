package docsite_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
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
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"gopkg.in/yaml.v3"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/docsite"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/problem"
	"github.com/agentrouter/aikeys/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nobody has a session.
type nobody struct{}

func (nobody) Authenticate(context.Context, string) (auth.Principal, error) {
	return auth.Principal{}, auth.ErrUnauthenticated
}
func (nobody) Drop(string) {}

// service is the site on the listener of an API that is not ready: its database is away.
type service struct {
	*httptest.Server
	registry *prometheus.Registry
}

func start(t *testing.T, cfg docsite.Config, serve ...func(*httptest.Server)) service {
	t.Helper()
	site, err := docsite.New(cfg)
	require.NoError(t, err)
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	registry := prometheus.NewRegistry()
	observer, err := httpapi.NewObserver("public", slog.New(slog.DiscardHandler), registry, nil)
	require.NoError(t, err)
	api, err := httpapi.NewAPI(httpapi.Config{
		Document: doc, Sessions: nobody{}, Observer: observer, Ready: func() bool { return false }, Site: site,
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

// ask sends a request; a header "Host" is the request's host.
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

// everyPath is all that the site serves, but for redirects and downloads.
func everyPath() []string {
	paths := []string{
		"/openapi.yaml", "/openapi.json", "/docs", "/docs/getting-started", "/docs/sdks", "/docs/problems", "/docs/assets/site.css",
		"/docs/assets/site.js", "/docs/assets/reference.css", "/docs/assets/reference.js", "/docs/assets/scalar.js",
		"/docs/assets/scalar.LICENSE", "/docs/assets/icon.svg",
	}
	for _, p := range problem.Types() {
		paths = append(paths, "/problems/"+p.Slug)
	}
	return paths
}

func TestPagesNeedNoSessionAndNoDatabase(t *testing.T) {
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
			require.Equal(t, path == "/docs", strings.Contains(policy, "unsafe-inline"), "styles of the reference's library alone")
		})
	}
	families, err := s.registry.Gather()
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(families), `value:"page"`, "they are counted")
}

// An inline script or style would not run, by the policy.
func TestPagesHoldNoInlineScriptsOrStyles(t *testing.T) {
	s := start(t, docsite.Config{Downloads: packed(t)})
	inline := regexp.MustCompile(`(?i)<script(>| [^>]*>[^<])|<style|\son[a-z]+=|\sstyle=|javascript:`)
	linked := regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	for _, path := range everyPath() {
		if strings.Contains(path, "assets") || strings.Contains(path, "openapi") {
			continue
		}
		got := s.get(t, path)
		require.NotRegexp(t, inline, got.body, path)
		for _, m := range linked.FindAllStringSubmatch(got.body, -1) {
			target := html.UnescapeString(m[1])
			if strings.HasPrefix(target, "#") || strings.HasPrefix(target, "https://www.rfc-editor.org/") {
				continue
			}
			require.True(t, strings.HasPrefix(target, "/"), "%s links to %s", path, target)
			require.Equal(t, http.StatusOK, s.get(t, target).StatusCode, "%s links to %s", path, target)
		}
	}
}

func TestPagesAnswerGetAndHeadAlone(t *testing.T) {
	s := start(t, docsite.Config{})
	for _, path := range everyPath() {
		full, head := s.get(t, path), s.ask(t, http.MethodHead, path)
		require.Equal(t, http.StatusOK, head.StatusCode, path)
		require.Empty(t, head.body)
		require.EqualValues(t, len(full.body), head.ContentLength, path)
		require.Equal(t, full.Header.Get("ETag"), head.Header.Get("ETag"))
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			got := s.ask(t, method, path)
			require.Equal(t, http.StatusMethodNotAllowed, got.StatusCode)
			require.Equal(t, "GET, HEAD", got.Header.Get("Allow"))
			require.Contains(t, got.body, `"code":"invalid_argument"`)
		}
	}
}

func TestWhatAReaderHasIsNotSentAgain(t *testing.T) {
	s := start(t, docsite.Config{})
	for _, path := range everyPath() {
		tag := s.get(t, path).Header.Get("ETag")
		require.NotEmpty(t, tag, path)
		for _, known := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
			got := s.get(t, path, "If-None-Match", known)
			require.Equal(t, http.StatusNotModified, got.StatusCode, "%s %s", path, known)
			require.Empty(t, got.body)
			require.Equal(t, tag, got.Header.Get("ETag"))
			require.Contains(t, got.Header.Get("Cache-Control"), "no-cache")
		}
		require.Equal(t, http.StatusOK, s.get(t, path, "If-None-Match", `"other"`).StatusCode)
	}
	t.Run("a page for another address is another page", func(t *testing.T) {
		tag := s.get(t, "/openapi.yaml").Header.Get("ETag")
		require.NotEqual(t, tag, s.get(t, "/openapi.yaml", "Host", "keys.example.com").Header.Get("ETag"))
		require.Contains(t, s.get(t, "/openapi.yaml").Header.Get("Cache-Control"), "private", "and no shared cache keeps it")
	})
	t.Run("files are kept for good under the version that pages link to", func(t *testing.T) {
		link := regexp.MustCompile(`/docs/assets/site\.css\?v=\w+`).FindString(s.get(t, "/docs").body)
		require.Contains(t, s.get(t, link).Header.Get("Cache-Control"), "immutable")
		require.Equal(t, "no-cache", s.get(t, "/docs/assets/site.css?v=another").Header.Get("Cache-Control"))
	})
	require.Equal(t, "no-store", s.get(t, "/v1/whoami").Header.Get("Cache-Control"), "the API's answers are not kept")
}

func TestTheLibraryComesCompressedToThoseWhoTakeThat(t *testing.T) {
	s := start(t, docsite.Config{})
	const path = "/docs/assets/scalar.js"
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

func TestOnlyPagesAreServed(t *testing.T) {
	s := start(t, docsite.Config{Downloads: packed(t)})
	for _, path := range []string{
		"/", "/problems/x", "/problems/not-found/", "/problems/../docs", "/docs/x", "/docs/assets", "/docs/assets/", "/docs/downloads",
		"/docs/downloads/", "/docs/downloads/notes.txt", "/docs/downloads/..%2fsecret", "/docs/downloads/../secret", "/docs/assets/scalar.js.gz",
		"/docs/downloads/agentrouter-go-0.1.0.tar.gz", "/docs//sdks", "/templates/layout.html", "/DOCS", "/docs%2fsdks%00",
	} {
		got := s.get(t, path)
		require.Equal(t, http.StatusNotFound, got.StatusCode, path)
		require.Equal(t, problem.ContentType, got.Header.Get("Content-Type"))
		require.Equal(t, "no-store", got.Header.Get("Cache-Control"))
	}
}

func TestTheRootLeadsBrowsersToThePages(t *testing.T) {
	s := start(t, docsite.Config{})
	const browser = "text/html,application/xhtml+xml,*/*;q=0.8"
	for path, to := range map[string]string{"/": "/docs", "/docs/": "/docs", "/problems": "/docs/problems", "/problems/": "/docs/problems"} {
		got := s.get(t, path, "Accept", browser)
		require.Equal(t, http.StatusFound, got.StatusCode, path)
		require.Equal(t, to, got.Header.Get("Location"))
	}
	require.Equal(t, http.StatusNotFound, s.get(t, "/", "Accept", "application/json").StatusCode)
	require.Equal(t, http.StatusNotFound, s.ask(t, http.MethodPost, "/", "Accept", browser).StatusCode)
}

// The document is the repository's, but for its servers.
func TestTheDocumentNamesTheReadersServerAndIsOtherwiseTheRepositorys(t *testing.T) {
	s := start(t, docsite.Config{})
	var want map[string]any
	require.NoError(t, yaml.Unmarshal(spec.AikeysYAML(), &want))
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
	require.Contains(t, asJSON.body, `"x-secret":true`)

	for _, document := range []string{text.body, asJSON.body} {
		doc, err := openapi3.NewLoader().LoadFromData([]byte(document))
		require.NoError(t, err)
		require.NoError(t, doc.Validate(t.Context(), openapi3.EnableExamplesValidation(), openapi3.EnableSchemaFormatValidation()))
	}
}

func TestPagesSayTheReadersBaseURL(t *testing.T) {
	plain := start(t, docsite.Config{})
	secure := start(t, docsite.Config{}, func(s *httptest.Server) {
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		s.StartTLS()
	})
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

func TestEveryTypeOfProblemHasAPageThatSaysWhatTheTableSays(t *testing.T) {
	s := start(t, docsite.Config{})
	list := s.get(t, "/docs/problems").body
	types := problem.Types()
	require.Greater(t, len(types), 15)
	explained, err := docsite.Explained()
	require.NoError(t, err)
	var slugs []string
	for _, p := range types {
		slugs = append(slugs, p.Slug)
	}
	require.ElementsMatch(t, slugs, explained, "impl/problem/table.go and impl/docsite/problems.yaml have the same types")
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
			require.Equal(t, p.Example(got.RequestID), got)
		})
	}
}

// packed is a folder with SDKs, and with what has no business among them.
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

func TestTheNewestSDKsCanBeDownloaded(t *testing.T) {
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

func TestWithoutDownloadsThePageSaysHowToMakeThem(t *testing.T) {
	for name, folder := range map[string]string{"no folder": "", "an empty folder": t.TempDir()} {
		page := start(t, docsite.Config{Downloads: folder}).get(t, "/docs/sdks").body
		require.Contains(t, page, "has no downloads", name)
		require.Contains(t, page, "make dist")
		require.Contains(t, page, "AIKEYS_DOWNLOADS")
		require.NotContains(t, page, "curl -sSfO")
	}
}

func TestDownloadsThatAreNoneStopTheStart(t *testing.T) {
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
