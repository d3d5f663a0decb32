package docsite_test

import (
	"context"
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
