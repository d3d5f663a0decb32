package docsite_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/docsite"
)

func TestBaseURL(t *testing.T) {
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
