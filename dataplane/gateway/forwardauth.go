package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"
	"time"
)

// HeaderForwardAuth carries the secret that a proxy must send, if one is configured.
const HeaderForwardAuth = "Agentrouter-Forward-Auth"

const forwardAuthPath = "/auth/"

type forwardAuth struct {
	authorizer *Authorizer
	secret     func() string // nil requires none
}

// NewForwardAuth returns the handler that other proxies ask: nginx's auth_request, Caddy's forward_auth, Traefik's
// ForwardAuth. They send the head of a caller's request to /auth/{provider}, with any method. 200 means that the request
// may pass. Of Authorization, X-Api-Key, X-Goog-Api-Key and Api-Key, one then holds the provider's key and the others are
// empty: a proxy that copies all four onto the request sets the key and removes the caller's credential. The proxy must be
// configured to send the request to that provider and nowhere else.
//
// Its answers carry providers' keys in plain text: a client that reaches it with a valid API key can read one. Serve it
// where callers can't reach it, on a unix socket or an address of its own, and set Config.ForwardAuthSecret as well.
//
// It never sees the provider's answer, so it reports no refused keys. It ignores a credential in the query (?key=),
// because these proxies could not remove it.
func NewForwardAuth(cfg Config) (http.Handler, error) {
	authorizer, err := NewAuthorizer("forward_auth", cfg)
	if err != nil {
		return nil, err
	}
	return &forwardAuth{authorizer, cfg.ForwardAuthSecret}, nil
}

// ServeHTTP implements http.Handler.
func (f *forwardAuth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	if !f.isProxy(r.Header) {
		f.authorizer.Refuse(r.Context(), started, noProvider, errForwardAuth).Write(w)
		return
	}
	provider, ok := strings.CutPrefix(r.URL.EscapedPath(), forwardAuthPath)
	if !ok || provider == "" {
		f.authorizer.Refuse(r.Context(), started, noProvider, errNoRoute).Write(w)
		return
	}
	if err := checkOriginal(r.Header); err != nil {
		f.authorizer.Refuse(r.Context(), started, noProvider, err).Write(w)
		return
	}
	grant, problem := f.authorizer.Authorize(r.Context(), r.RemoteAddr, Head{Provider: provider, Header: r.Header})
	if problem != nil {
		problem.Write(w)
		return
	}
	header := w.Header()
	for _, name := range CredentialHeaders() {
		header[name] = []string{""}
	}
	name, value := grant.Header()
	header[name] = []string{value}
	header[HeaderKeyID] = []string{grant.KeyID}
	header[HeaderReason] = []string{grant.Reason}
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

// checkOriginal checks the method and the path of the caller's request as far as the proxy says them. Each proxy has its own headers
// for that, and passes the others on as the caller sent them; so all that are there must be fine.
func checkOriginal(header http.Header) error {
	for _, name := range [...]string{"X-Forwarded-Method", "X-Original-Method"} {
		if slices.ContainsFunc(header[name], isForbiddenMethod) {
			return errMethod
		}
	}
	for _, name := range [...]string{"X-Forwarded-Uri", "X-Original-Uri"} {
		for _, uri := range header[name] {
			path, _, _ := strings.Cut(uri, "?")
			if _, err := parsePath(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// isProxy reports whether the request carries the secret of the operator's proxies.
func (f *forwardAuth) isProxy(header http.Header) bool {
	if f.secret == nil {
		return true
	}
	want, got := f.secret(), header[HeaderForwardAuth]
	if want == "" || len(got) != 1 {
		return false
	}
	// Hashes have equal length, so that the time of the comparison does not depend on the secret's.
	wantHash, gotHash := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(got[0]))
	return subtle.ConstantTimeCompare(wantHash[:], gotHash[:]) == 1
}
