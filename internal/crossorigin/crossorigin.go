// Package crossorigin lets pages of named origins use an API from a browser (CORS, fetch.spec.whatwg.org). Without it, browsers keep
// pages of other origins out.
package crossorigin

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/rs/cors"

	"github.com/agentrouter/aikeys/internal/netaddr"
)

// ErrOrigin says that a text is not an origin, or an origin that may not be allowed.
var ErrOrigin = errors.New("must be an origin as browsers send it, https://app.example.com, or http on this machine: " +
	"no path, no default port, no wildcard")

// Check returns ErrOrigin unless the text is an origin. Plain http is only for this machine: anybody can forge a page that comes over a
// network without TLS.
func Check(origin string) error {
	u, err := url.Parse(origin)
	if err != nil || origin != u.Scheme+"://"+u.Host || u.Hostname() == "" || origin != strings.ToLower(origin) || strings.Contains(origin, "*") {
		return ErrOrigin
	}
	if isLocal := u.Scheme == "http" && netaddr.IsLoopback(u.Hostname()) && u.Port() != "80"; !isLocal && (u.Scheme != "https" || u.Port() == "443") {
		return ErrOrigin
	}
	return nil
}

// maxAge is how long a browser may keep the answer to a preflight, in seconds.
const maxAge = 600

// Allow returns a handler that answers the preflights of the origins and lets their pages read the answers of next. It allows no cookies:
// a page sends its credential itself. Without origins it returns next.
func Allow(origins []string, next http.Handler) http.Handler {
	if len(origins) == 0 {
		return next // the library would allow all origins
	}
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"*"},
		ExposedHeaders: []string{"*"},
		MaxAge:         maxAge,
	}).Handler(next)
}
