// Package docsite serves the pages that aikeysd shows to people in a browser: the console, the API reference and its
// OpenAPI documents, a page to get started with, the guides, the SDKs to download, and what each problem type means.
// All content except the downloads is embedded. Pages are rendered once, on the first request for one of them. The
// package reads no database. It may import docs and leaves only.
//
// The folder generated holds the API's document in each format that is served. "make generate" writes it.
package docsite

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/agentrouter/aikeys/impl/docsite/apiref"
	"github.com/agentrouter/aikeys/internal/problem"
)

//go:generate go run ./generate

var (
	//go:embed generated/openapi.yaml
	openAPIYAML []byte
	//go:embed generated/openapi.json
	openAPIJSON []byte
	//go:embed generated/summary.json
	summaryJSON []byte
)

// Config is what a Site needs. The zero value is a site without downloads.
type Config struct {
	// Downloads is the folder with the files that "make dist" has packed. New reads it once. Empty means no downloads.
	Downloads string
	// Problems are the tables of the APIs whose problem types have a page.
	Problems []problem.Table
	// TrustedProxies are the networks whose X-Forwarded-Proto and X-Forwarded-Host are trusted.
	TrustedProxies []netip.Prefix
	// SignInServers returns the URLs that the console asks when people sign in; none if they can't. It may be nil.
	SignInServers func(context.Context) []string
}

// Site finds the handlers of its pages and files. It does not change after New.
type Site struct {
	handlers map[string]http.Handler // by path
	console  http.Handler            // of each page of the console
	// pages returns the handlers of the pages. It renders all pages on the first request for any of them, so that a
	// service whose pages nobody opens spends nothing on rendering.
	pages func() map[string]http.Handler
}

// New loads the downloads.
func New(cfg Config) (*Site, error) {
	var api apiref.Summary
	if err := json.Unmarshal(summaryJSON, &api); err != nil {
		return nil, fmt.Errorf("docsite: generated/summary.json: %w", err)
	}
	sdks, programs, err := loadDownloads(cfg.Downloads)
	if err != nil {
		return nil, err
	}
	base := &baseURL{trusted: cfg.TrustedProxies, fallback: api.Server}
	s := &Site{handlers: map[string]http.Handler{
		"/":             redirect("/docs"),
		"/openapi.yaml": resource{contentType: "application/yaml", body: newContent(openAPIYAML), base: base},
		"/openapi.json": resource{contentType: "application/json", body: newContent(openAPIJSON), base: base},
		"/docs/":        redirect("/docs"),
		"/docs/guides/": redirect(guidesPath),
		"/problems":     redirect("/docs/problems"),
		"/problems/":    redirect("/docs/problems"),
	}}
	for _, sdk := range sdks {
		if sdk.File != "" {
			s.handlers[sdk.Path()] = resource{contentType: "application/gzip", body: newContent(sdk.body), attachment: sdk.File}
		}
	}
	for _, p := range programs {
		s.handlers[p.Path()] = p
	}
	s.addConsole(cfg.SignInServers)
	m := material{API: &api, SDKs: sdks, Programs: programs}
	s.pages = sync.OnceValue(func() map[string]http.Handler { return loadPages(base, m, problem.Types(cfg.Problems...)) })
	return s, nil
}

// loadPages returns the handlers of the pages and of the files that they show. Everything is embedded and a test
// renders it, so an error here is a mistake in the program.
func loadPages(base *baseURL, m material, types []problem.Type) map[string]http.Handler {
	pages, err := renderPages(&m, types)
	if err != nil {
		panic(err)
	}
	files, err := guideFiles()
	if err != nil {
		panic(err)
	}
	handlers := map[string]http.Handler{}
	for _, a := range m.Assets {
		handlers[a.path] = compressedOnDemand(a.resource)
	}
	for path, file := range files {
		handlers[path] = file
	}
	for path, page := range pages {
		switch {
		case path == missingPath:
			handlers[path] = notFoundPage(page.body.bytes)
		case bytes.Contains(page.body.bytes, []byte(apiref.Placeholder)):
			page.base = base
			handlers[path] = page
		default:
			handlers[path] = compressedOnDemand(page)
		}
	}
	return handlers
}

// Lookup returns the handler for the request, or nil if the request is not for the site. Paths are compared whole and
// never name files; all pages of the console are the same file. Browsers are redirected from / to the reference, and
// get an HTML page with status 404 for an unknown path outside /v1; other clients get the API's answer.
func (s *Site) Lookup(r *http.Request) http.Handler {
	path := r.URL.Path
	if path == "/" && !isBrowser(r) {
		return nil
	}
	if h, ok := s.handlers[path]; ok {
		return h
	}
	if isConsole(path) {
		return s.console
	}
	if isPage(path) {
		if h, ok := s.pages()[path]; ok {
			return h
		}
	}
	if isBrowser(r) && path != "/v1" && !strings.HasPrefix(path, "/v1/") {
		return s.pages()[missingPath]
	}
	return nil
}

// isPage reports whether a path can be a page's. Requests for other paths do not cause the pages to be rendered.
func isPage(path string) bool {
	return path == "/docs" || path == "/llms.txt" || strings.HasPrefix(path, "/docs/") || strings.HasPrefix(path, "/problems/")
}

func isBrowser(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// notFoundPage answers with a page, and the status 404.
func notFoundPage(page []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Cache-Control", "no-store")
		header.Set("Vary", "Accept")
		setSafetyHeaders(header, pagePolicy)
		w.WriteHeader(http.StatusNotFound)
		if r.Method != http.MethodHead {
			_, _ = w.Write(page) // a reader who has gone needs no answer
		}
	})
}

// redirect answers with a redirect that is not cached: the next release may lead elsewhere.
func redirect(to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		http.Redirect(w, r, to, http.StatusFound)
	})
}
