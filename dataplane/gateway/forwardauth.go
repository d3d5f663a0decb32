package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

const (
	// HeaderForwardAuth carries the secret that a proxy must send, if one is configured.
	HeaderForwardAuth = "Agentrouter-Forward-Auth"
	// HeaderError repeats the body of a refusal, because nginx does not read the bodies of such answers.
	HeaderError = "Agentrouter-Error"

	forwardAuthPath = "/auth/"
)

type forwardAuth struct {
	authorizer *Authorizer
	secret     func() string // nil requires none
}

// NewForwardAuth returns the handler that other proxies ask: nginx's auth_request, Caddy's forward_auth, Traefik's
// ForwardAuth. They send the head of a caller's request to /auth/{provider}, with any method. The status 200 means that
// the request may pass. Its answer has the headers Authorization, X-Api-Key, X-Goog-Api-Key and Api-Key: one holds the
// provider's key, and the others are empty. So a proxy that copies all four onto the request sets the key and removes
// the caller's credential. The proxy must be configured to send the request to that provider and nowhere else. Any
// other status is a refusal, in the dialect of the API that was called.
//
// The handler's answers carry providers' keys in plain text: a client that reaches it with a valid API key can read a
// provider's key. Serve it where callers can't reach it, on a unix socket or an address of its own, and set
// Config.ForwardAuthSecret as well.
//
// The handler never sees the provider's answer, so it reports no refused keys. It ignores a credential in the query
// (?key=) and among the protocols of a WebSocket, because these proxies could not remove it.
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
	head := Head{Provider: provider, Header: r.Header, Methods: slices.Concat(r.Header["X-Forwarded-Method"], r.Header["X-Original-Method"])}
	for _, uri := range slices.Concat(r.Header["X-Forwarded-Uri"], r.Header["X-Original-Uri"]) {
		if path, query, _ := strings.Cut(uri, "?"); path != "" { // an empty header says nothing
			head.Paths, head.queries = append(head.Paths, path), append(head.queries, query)
		}
	}
	if head.Header[webSocketProtocols] != nil {
		head.Header = head.Header.Clone()
		delete(head.Header, webSocketProtocols)
	}
	grant, problem := f.authorizer.Authorize(r.Context(), r.RemoteAddr, head)
	if problem != nil {
		w.Header()[HeaderError] = []string{string(bytes.TrimSpace(problem.Body()))}
		problem.Write(w)
		return
	}
	lifecycle.MarkAuthenticated(r.Context())
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

// isProxy reports whether the request carries the secret of the operator's proxies.
func (f *forwardAuth) isProxy(header http.Header) bool {
	if f.secret == nil {
		return true
	}
	want, got := f.secret(), header[HeaderForwardAuth]
	if want == "" || len(got) != 1 {
		return false
	}
	// Hashes have equal length, so the time of the comparison does not depend on the secret's length.
	wantHash, gotHash := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(got[0]))
	return subtle.ConstantTimeCompare(wantHash[:], gotHash[:]) == 1
}
