package gateway

import (
	"maps"
	"net/url"
	"os"
	"path"
	"regexp"
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

func attacks() []string {
	return []string{
		"/..", "/../x", "/a/../../x", "/./x", "/a/.", "//evil.example/x", "/a//b", "/%2e%2e/x", "/%2E%2e/x", "/.%2e/x",
		"/a%2f..%2fx", "/%2fevil.example", "/a/%2f/b", "/..%2fx", `/..\x`, "/..%5cx", "/%5c%5cevil.example", `/\evil.example`,
		"/%252e%252e/x", "/%25252e%25252e/x", "/..;/x", "/..;a=b/x", "/%2e%2e%3b/x", "/a%00", "/a%0d%0aX: y", "/%c0%ae%c0%ae/x",
		"/%zz%2e%2e", "/%%32%65%%32%65/x", "@evil.example/x", ".evil.example", ":80/x", "x",
	}
}

func TestParsePathRefusesEscapes(t *testing.T) {
	for _, rest := range attacks() {
		_, err := parsePath(rest)
		require.ErrorIs(t, err, errPath, rest)
	}
}

// Whatever the path: the host stays the provider's, and nobody who decodes the path, however often, leaves the base.
func FuzzJoin(f *testing.F) {
	for _, rest := range attacks() {
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
		require.Equal(t, ok, err == nil && checkDestination(u) == nil, text)
	}
}

func TestProvidersAreTheCatalogue(t *testing.T) {
	slugs, err := Providers()
	require.NoError(t, err)
	require.Equal(t, catalogue(t), slugs)
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

// catalogue returns the slugs of spec/providers.yaml.
func catalogue(t testing.TB) (slugs []string) {
	t.Helper()
	text, err := os.ReadFile("../../spec/providers.yaml")
	require.NoError(t, err)
	for _, slug := range regexp.MustCompile(`(?m)^  - slug: (\S+)$`).FindAllSubmatch(text, -1) {
		slugs = append(slugs, string(slug[1]))
	}
	return slugs
}

func mustURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}

// The control plane checks the catalogue; the gateway has it too, and both know the same dialects.
func TestTheGatewayKnowsEachProvidersDialect(t *testing.T) {
	slugs, err := Providers()
	require.NoError(t, err)
	known := cataloguedProviders()
	require.Len(t, known, len(slugs))
	for _, slug := range slugs {
		require.NotNil(t, known[slug].requests.key, slug)
		for _, dialect := range append(slices.Collect(maps.Values(known[slug].byRoute)), known[slug].dialect) {
			require.Contains(t, []Dialect{"", DialectOpenAI, DialectPerplexity, DialectAnthropic, DialectGoogle}, dialect, slug)
		}
		require.NotEmpty(t, known[slug].dialect, slug)
	}
}
