package docsite_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/docsite"
)

func TestConsolePolicyHasNoException(t *testing.T) {
	s := start(t, docsite.Config{})
	page := s.get(t, "/console/keys")
	require.Equal(t, "text/html; charset=utf-8", page.Header.Get("Content-Type"))
	policy := page.Header.Get("Content-Security-Policy")
	require.NotRegexp(t, `unsafe|\*|https?:|data:|blob:|nonce|sha256`, policy)
	require.Contains(t, policy, "connect-src 'self'")
	require.Contains(t, policy, "require-trusted-types-for 'script'")
	require.NotRegexp(t, `<style| style=|<script>| on\w+=|https?://`, page.body, "nothing inline, nothing from elsewhere")
}

func TestConsoleFilesAreCachedByVersion(t *testing.T) {
	s := start(t, docsite.Config{})
	linked := regexp.MustCompile(`/console/app\.(js|css)\?v=[0-9a-f]{12}`).FindAllString(s.get(t, "/console").body, -1)
	require.Len(t, linked, 2)
	for _, path := range linked {
		require.Contains(t, s.get(t, path).Header.Get("Cache-Control"), "immutable")
		plain, _, _ := strings.Cut(path, "?")
		require.Equal(t, "no-cache", s.get(t, plain).Header.Get("Cache-Control"), "another version may follow")
		zipped := s.get(t, path, "Accept-Encoding", "gzip")
		require.Equal(t, "gzip", zipped.Header.Get("Content-Encoding"))
		require.Equal(t, "Accept-Encoding", zipped.Header.Get("Vary"))
		require.Equal(t, http.StatusNotModified, s.get(t, path, "Accept-Encoding", "gzip", "If-None-Match", zipped.Header.Get("ETag")).StatusCode)
		require.Less(t, len(zipped.body), 110<<10, "what a browser loads before it shows anything")
	}
}
