// Package docsite is what aikeysd shows to people in a browser: the API reference and its OpenAPI documents, a page to get
// started with, the SDKs to download, and what each problem means. Everything is embedded, and made once at the start: a
// request costs a look-up and a copy, asks no database and runs no template. It may import spec and impl/problem.
package docsite

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/agentrouter/aikeys/spec"
)

// Config is what a Site needs. The zero value is one without downloads.
type Config struct {
	// Downloads is the folder with the packed SDKs; empty is none. It is read once.
	Downloads string
	// TrustedProxies are the networks whose X-Forwarded-Proto and X-Forwarded-Host are believed.
	TrustedProxies []netip.Prefix
}

// Site answers the requests for pages. It does not change.
type Site struct {
	handlers map[string]http.Handler
	home     http.Handler
}

// New makes all pages.
func New(cfg Config) (*Site, error) {
	document, err := newDocument(spec.AikeysYAML())
	if err != nil {
		return nil, err
	}
	sdks, err := loadSDKs(cfg.Downloads)
	if err != nil {
		return nil, err
	}
	bases := bases{trusted: cfg.TrustedProxies, fallback: document.server}
	s := &Site{handlers: map[string]http.Handler{
		"/openapi.yaml": resource{contentType: "application/yaml", content: contentOf(document.yaml), bases: &bases},
		"/openapi.json": resource{contentType: "application/json", content: contentOf(document.json), bases: &bases},
		"/docs/":        redirect("/docs"),
		"/problems":     redirect("/docs/problems"),
		"/problems/":    redirect("/docs/problems"),
	}, home: redirect("/docs")}
	for _, archive := range sdks {
		if archive.File != "" {
			s.handlers[archive.Path()] = archive.resource()
		}
	}
	assets, err := loadAssets()
	if err != nil {
		return nil, err
	}
	for _, a := range assets {
		s.handlers[a.path] = a.resource
	}
	rendered, err := render(document, sdks, assets)
	if err != nil {
		return nil, err
	}
	for path, page := range rendered {
		page.bases = &bases
		s.handlers[path] = page
	}
	return s, nil
}

// Lookup returns who answers the request, nil when it is for no page. Paths are compared whole: no file is ever looked for.
// Who asks for the root is taken to the reference if they are a browser; to all others it does not exist.
func (s *Site) Lookup(r *http.Request) http.Handler {
	if r.URL.Path == "/" {
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		if reads && strings.Contains(r.Header.Get("Accept"), "text/html") {
			return s.home
		}
		return nil
	}
	if h, ok := s.handlers[r.URL.Path]; ok {
		return h
	}
	return nil
}

// redirect leads to another page. It may lead elsewhere in another release, so it is not to be kept.
func redirect(to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		http.Redirect(w, r, to, http.StatusFound)
	})
}
