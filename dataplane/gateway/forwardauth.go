package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"time"
)

// HeaderForwardAuth carries the secret that a proxy proves itself with, where one is set.
const HeaderForwardAuth = "Agentrouter-Forward-Auth"

const forwardAuthPath = "/auth/"

type forwardAuth struct {
	authorizer *Authorizer
	secret     func() string // nil asks for none
}

// NewForwardAuth returns the handler that other proxies ask: nginx's auth_request, Caddy's forward_auth, Traefik's
// ForwardAuth. They send the head of a caller's request to /auth/{provider}, with any method. 200 lets it pass. Of
// Authorization, X-Api-Key, X-Goog-Api-Key and Api-Key, one then holds the provider's key and the others are empty,
// so that copying all four onto the request puts the key in and takes the caller's credential out. The proxy has to
// be set to send it to that provider and nowhere else.
//
// Its answers carry providers' keys in plain text: anybody who can reach it and has a valid API key can read one.
// Serve it where callers can't reach it, on a unix socket or an address of its own, and set Config.ForwardAuthSecret
// besides.
//
// It never sees what the provider answers, so failures of keys are not reported. A credential in the query (?key=) is
// not looked for, as these proxies could not take it out.
func NewForwardAuth(cfg Config) (http.Handler, error) {
	authorizer, err := NewAuthorizer("forward_auth", cfg)
	if err != nil {
		return nil, err
	}
	return &forwardAuth{authorizer, cfg.ForwardAuthSecret}, nil
}

// ServeHTTP implements http.Handler.
func (f *forwardAuth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if explain(w, r) {
		return
	}
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
	grant, problem := f.authorizer.Authorize(r.Context(), r.RemoteAddr, provider, r.Header, "")
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

func (f *forwardAuth) isProxy(header http.Header) bool {
	if f.secret == nil {
		return true
	}
	want, got := f.secret(), header[HeaderForwardAuth]
	if want == "" || len(got) != 1 {
		return false
	}
	// Hashes are of one length, so that the time tells nothing of the secret's.
	wanted, given := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(got[0]))
	return subtle.ConstantTimeCompare(wanted[:], given[:]) == 1
}
