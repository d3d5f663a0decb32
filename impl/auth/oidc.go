package auth

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// algorithms are the signatures accepted: asymmetric ones only, so that a public key can never serve as a shared secret
// (RFC 8725, section 3.1).
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512,
		jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512,
		jose.EdDSA,
	}
}

// OIDCConfig is what an OIDC needs. Issuer and Audience are required.
type OIDCConfig struct {
	// Issuer is the issuer's URL, exactly as its tokens have it in "iss": https, or http on a loopback host.
	Issuer string
	// Audience must be among a token's "aud".
	Audience string
	// Claims names the claims to read; an empty name means its default.
	Claims ClaimNames
	// HTTPClient fetches the issuer's documents; nil means one of its own. Either way a fetch ends after 5 s and reads
	// at most 1 MiB, and a redirect to anything but https or a loopback host is refused.
	HTTPClient *http.Client
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// OIDC verifies session tokens: JWTs of one OpenID Connect issuer. It fetches nothing until the first token comes, so
// the service starts while the issuer is down.
type OIDC struct {
	issuer string
	claims ClaimNames
	keys   *keySource
	config *oidc.Config
}

// NewOIDC returns an OIDC, or an error that says what of the configuration is wrong.
func NewOIDC(cfg OIDCConfig) (*OIDC, error) {
	issuer, err := url.Parse(cfg.Issuer)
	switch {
	case err != nil || !secureURL(issuer):
		return nil, errors.New("OIDC issuer must be an https URL (http on a loopback host only)")
	case issuer.User != nil || issuer.RawQuery != "" || issuer.Fragment != "":
		return nil, errors.New("OIDC issuer must be a URL without user, query and fragment")
	case cfg.Audience == "":
		return nil, errors.New("OIDC audience is required: without it, tokens for other services would open sessions")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	var names []string
	for _, a := range algorithms() {
		names = append(names, string(a))
	}
	return &OIDC{
		issuer: cfg.Issuer,
		claims: cfg.Claims.withDefaults(),
		keys:   newKeySource(cfg.Issuer, cfg.HTTPClient, cfg.Now),
		config: &oidc.Config{ClientID: cfg.Audience, SupportedSigningAlgs: names, Now: cfg.Now},
	}, nil
}

// verify checks a JWT in compact form: its algorithm and signature, "iss" and "aud", "exp" (required) and "nbf" (if any;
// with the library's five minutes of leeway), and reads the session from its claims.
func (o *OIDC) verify(ctx context.Context, jwt string) (Principal, error) {
	keys := &callKeys{source: o.keys}
	token, err := oidc.NewVerifier(o.issuer, keys, o.config).Verify(ctx, jwt)
	if err != nil {
		return Principal{}, o.cause(keys, err)
	}
	claims, err := decodeClaims(keys.payload)
	if err != nil {
		return Principal{}, err
	}
	p := Principal{Method: MethodOIDC, ExpiresAt: token.Expiry}
	if p.CustomerID, err = claims.id(o.claims.Customer); err != nil {
		return Principal{}, err
	}
	if p.UserID, err = claims.id(o.claims.User); err != nil {
		return Principal{}, err
	}
	if p.ProjectID, err = claims.id(o.claims.Project); err != nil {
		return Principal{}, err
	}
	return p, nil
}

// Probe tells whether the issuer's documents can be read, as a session token needs them. It fetches them, for 5 s at the
// most, unless they are at hand; its error wraps ErrIssuerUnavailable.
func (o *OIDC) Probe(ctx context.Context) error {
	_, err := o.keys.current(ctx, false)
	return err
}

// cause says why Verify failed. It replaces the library's error, whose text holds what the token says, by ours.
func (o *OIDC) cause(keys *callKeys, err error) error {
	var expired *oidc.TokenExpiredError
	switch {
	case keys.err != nil:
		return keys.err
	case keys.payload == nil:
		return unauthenticated(errAlgorithm)
	case errors.As(err, &expired):
		return unauthenticated(errExpired)
	}
	claims, err := decodeClaims(keys.payload)
	if err != nil {
		return err
	}
	var issuer string
	if json.Unmarshal(claims["iss"], &issuer) != nil || issuer != o.issuer {
		return unauthenticated(errIssuer)
	}
	return unauthenticated(errAudience)
}

// callKeys is the key set of one call. The library flattens the key set's error into text; here the error itself is
// kept, so that an unreachable issuer is told from a bad signature.
type callKeys struct {
	source  *keySource
	payload []byte
	err     error
}

// VerifySignature implements oidc.KeySet.
func (k *callKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	k.payload, k.err = k.source.verify(ctx, jwt)
	return k.payload, k.err
}

// secureURL tells whether what is read from u can be trusted to be u's: over TLS, or without leaving this machine.
func secureURL(u *url.URL) bool {
	host := u.Hostname()
	loopback := host == "localhost" || net.ParseIP(host).IsLoopback()
	return host != "" && (u.Scheme == "https" || u.Scheme == "http" && loopback)
}
