package session

import (
	"context"
	"time"
)

// Method says how a session was authenticated.
type Method string

// The methods of a Principal.
const (
	MethodAPIKey Method = "api_key"
	MethodOIDC   Method = "oidc"
)

// Principal is who a request acts for. Its ids are opaque, 1 to 64 characters of [A-Za-z0-9._-].
type Principal struct {
	CustomerID string
	UserID     string
	// ProjectID is the project that a request means when it names none.
	ProjectID string
	// TokenID is the ULID of the API key; empty for MethodOIDC.
	TokenID string
	Method  Method
	// ExpiresAt is when the session ends; zero means never.
	ExpiresAt time.Time
}

type contextKey struct{}

// WithPrincipal returns a context that carries p.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext returns the Principal that WithPrincipal put into ctx; false when there is none.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(contextKey{}).(Principal)
	return p, ok
}
