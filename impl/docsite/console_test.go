package docsite_test

import (
	"net/http"
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

func TestConsoleMayAskTheIssuer(t *testing.T) {
	for issuer, servers := range map[string]string{
		"": "'self'", "https://login.example.com/realms/acme": "'self' https://login.example.com", "http://127.0.0.1:9000": "'self' http://127.0.0.1:9000",
	} {
		policy := start(t, docsite.Config{Issuer: issuer}).get(t, "/console").Header.Get("Content-Security-Policy")
		require.Contains(t, policy, "; connect-src "+servers+"; ")
	}
}

func TestBrowsersAskWhetherTheConsoleHasChanged(t *testing.T) {
	s := start(t, docsite.Config{})
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
