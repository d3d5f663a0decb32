package dataplane

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/agentrouter/aikeys/internal/secret"
)

// AuthStyle is how a provider takes its key. Others than these may come; they are then unsupported.
type AuthStyle string

// How providers take their keys.
const (
	AuthBearer      AuthStyle = "bearer"
	AuthXAPIKey     AuthStyle = "x_api_key"
	AuthXGoogAPIKey AuthStyle = "x_goog_api_key" //nolint:gosec // the name of a style
	AuthAPIKey      AuthStyle = "api_key"
	AuthAWSSigV4    AuthStyle = "aws_sigv4"
	AuthGCPOAuth    AuthStyle = "gcp_oauth"
)

// Key is a provider's key and what to do with it. It is shared between all who resolved to it: do not change it, and do
// not keep it; resolve again for each request. It prints without the secret.
type Key struct {
	// ID is the key's id, and Version counts the secrets that it has had.
	ID      string
	Version int
	// CustomerID, ProjectID and Provider are whose key it is.
	CustomerID string
	ProjectID  string
	Provider   string
	// Scope is project or user; Reason is the rule that chose the key.
	Scope  string
	Reason string
	// BaseURL is the only place where the key may go.
	BaseURL   string
	AuthStyle AuthStyle
	// Caller is who is served; nil where the key was asked for by its id, or for nobody in particular.
	Caller *Caller

	secret secret.Text
	// header returns the header that carries the key, made once; nil if there is none.
	header func() (name, value string)
}

// Caller is who is served.
type Caller struct {
	UserID string
	// TokenID is the id of the caller's API key; empty for a session token or where no credential was given.
	TokenID string
}

// Secret is the provider's key in plain text. It prints as [redacted]; keep it in memory only.
func (k *Key) Secret() secret.Text { return k.secret }

// Header is the header that carries the key: what Authorize sets, for those who have another proxy set it.
func (k *Key) Header() (name, value string, err error) {
	if k.header == nil {
		return "", "", fmt.Errorf("%w: %s", ErrUnsupportedAuth, k.AuthStyle)
	}
	name, value = k.header()
	return name, value, nil
}

// Authorize takes every credential of the caller's out of h and puts the key in. It takes them out even if it returns
// an error, which wraps ErrUnsupportedAuth.
func (k *Key) Authorize(h http.Header) error {
	for name := range h {
		switch http.CanonicalHeaderKey(name) {
		case "Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Proxy-Authorization", "Cookie":
			delete(h, name)
		}
	}
	name, value, err := k.Header()
	if err != nil {
		return err
	}
	h.Set(name, value)
	return nil
}

// setSecret keeps the secret in closures, which no way of printing follows.
func (k *Key) setSecret(plain secret.Text) {
	k.secret = plain
	name, value := "", plain.Reveal()
	switch k.AuthStyle {
	case AuthBearer:
		name, value = "Authorization", "Bearer "+value
	case AuthXAPIKey:
		name = "X-Api-Key"
	case AuthXGoogAPIKey:
		name = "X-Goog-Api-Key"
	case AuthAPIKey:
		name = "Api-Key"
	case AuthAWSSigV4, AuthGCPOAuth:
		return
	default:
		return
	}
	k.header = func() (string, string) { return name, value }
}

// Format prints what the key is, and never the secret, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// String prints what the key is, without the secret.
func (k Key) String() string {
	return fmt.Sprintf("%s v%d of %s/%s for %s (%s, %s)",
		k.ID, k.Version, k.CustomerID, k.ProjectID, k.Provider, k.Scope, k.Reason)
}

// LogValue logs what the key is, without the secret.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
