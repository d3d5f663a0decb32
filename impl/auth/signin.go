package auth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
)

// SignIn is how people get a session token from the issuer: with a public client, by the authorization code flow with PKCE or the
// device flow.
type SignIn struct {
	Issuer   string
	ClientID string
	Scopes   []string
	// ByIDToken is set if the ID token is the session token. Otherwise the access token is.
	ByIDToken bool
}

// newSignIn returns nil if there is no client. An ID token is for the client (its "aud"), so it can be the session token only where
// the client is the audience.
func newSignIn(cfg OIDCConfig) *SignIn {
	if cfg.ClientID == "" {
		return nil
	}
	return &SignIn{Issuer: cfg.Issuer, ClientID: cfg.ClientID, Scopes: cfg.Scopes, ByIDToken: cfg.ClientID == cfg.Audience}
}

// SignIn returns how people sign in; nil if they can't. The caller must not change it.
func (o *OIDC) SignIn() *SignIn {
	if o == nil {
		return nil
	}
	return o.signIn
}

// discovery is what the service reads of the issuer's discovery document
// (https://openid.net/specs/openid-connect-discovery-1_0.html; RFC 8414; RFC 8628, section 4).
type discovery struct {
	Issuer           string   `json:"issuer"`
	KeysURL          string   `json:"jwks_uri"`
	AuthorizationURL string   `json:"authorization_endpoint"`
	TokenURL         string   `json:"token_endpoint"`
	DeviceURL        string   `json:"device_authorization_endpoint"`
	ChallengeMethods []string `json:"code_challenge_methods_supported"`
}

// ErrSignInImpossible means that the issuer lacks what people need to sign in.
var ErrSignInImpossible = errors.New("people can't sign in at the OIDC issuer")

// ProbeSignIn returns an error that wraps ErrSignInImpossible if the issuer's discovery document lacks what the authorization code flow
// needs. hasDeviceFlow is whether it has the device flow. A document that names no challenge methods may support S256: some
// issuers do and don't say so.
func (o *OIDC) ProbeSignIn(ctx context.Context) (hasDeviceFlow bool, err error) {
	state, err := o.keys.current(ctx, false)
	if err != nil {
		return false, err
	}
	document := state.document
	switch {
	case !isSecureText(document.AuthorizationURL):
		return false, fmt.Errorf("%w: its discovery document has no authorization_endpoint with an https URL", ErrSignInImpossible)
	case !isSecureText(document.TokenURL):
		return false, fmt.Errorf("%w: its discovery document has no token_endpoint with an https URL", ErrSignInImpossible)
	case len(document.ChallengeMethods) > 0 && !slices.Contains(document.ChallengeMethods, "S256"):
		return false, fmt.Errorf("%w: it does not support PKCE with S256", ErrSignInImpossible)
	}
	return isSecureText(document.DeviceURL), nil
}

// SignInServers returns the URLs that a browser asks for a session token: the issuer's, and that of the token endpoint which the issuer's
// discovery document names, which may be at another host. Nil if people can't sign in. It waits for a document that it does not have yet
// until ctx ends; without one it returns the issuer's alone.
func (o *OIDC) SignInServers(ctx context.Context) []string {
	if o == nil || o.signIn == nil {
		return nil
	}
	document := o.keys.state.Load().document
	if state, err := o.keys.current(ctx, false); err == nil {
		document = state.document
	}
	servers := []string{o.signIn.Issuer}
	if isSecureText(document.TokenURL) {
		servers = append(servers, document.TokenURL)
	}
	return servers
}

// isSecureText is isSecureURL for the text of a URL.
func isSecureText(text string) bool {
	u, err := url.Parse(text)
	return err == nil && isSecureURL(u)
}
