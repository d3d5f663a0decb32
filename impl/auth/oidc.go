package auth

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/models"
)

// algorithms returns the signature algorithms that are accepted. All are asymmetric, so that a public key can never serve as a
// shared secret (RFC 8725, section 3.1).
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
	// Issuer is the issuer's URL, exactly as in the "iss" of its tokens: https, or http on a loopback host.
	Issuer string
	// Audience must be among a token's "aud".
	Audience string
	// AuthorizedParties are the clients that a token's "azp" may name. Empty allows Audience and ClientID. A token
	// without an "azp" is for every client.
	AuthorizedParties []string
	// ClientID is the id of the public client that people sign in with. It is empty if people can't sign in.
	ClientID string
	// Scopes are the scopes that people sign in with.
	Scopes []string
	// MaxLifetime bounds the time from a token's "iat" to its "exp" or, without an "iat", from now; 0 means 24 hours.
	MaxLifetime time.Duration
	// Claims names the claims to read; an empty name means its default.
	Claims ClaimNames
	// HTTPClient fetches the issuer's documents; nil means a new client. With either client, a fetch ends after 5 s,
	// reads at most 1 MiB of each document, and follows redirects only to https and to loopback hosts.
	HTTPClient *http.Client
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// OIDC verifies session tokens: JWTs of one OpenID Connect issuer. It fetches nothing before the first token arrives, so the
// service starts while the issuer is down.
type OIDC struct {
	issuer      string
	claims      ClaimNames
	parties     []string
	maxLifetime time.Duration
	keys        *keySource
	signIn      *SignIn // nil without a client
	config      *oidc.Config
}

// NewOIDC returns an OIDC, or an error that says which setting is wrong.
func NewOIDC(cfg OIDCConfig) (*OIDC, error) {
	issuer, err := url.Parse(cfg.Issuer)
	switch {
	case err != nil || !isSecureURL(issuer):
		return nil, errors.New("OIDC issuer must be an https URL (http on a loopback host only)")
	case issuer.User != nil || issuer.RawQuery != "" || issuer.Fragment != "":
		return nil, errors.New("OIDC issuer must be a URL without user, query and fragment")
	case cfg.Audience == "":
		return nil, errors.New("OIDC audience is required: without it, tokens for other services would open sessions")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	parties := cfg.AuthorizedParties
	if len(parties) == 0 {
		parties = []string{cfg.Audience, cmp.Or(cfg.ClientID, cfg.Audience)}
	}
	var signIn *SignIn
	if cfg.ClientID != "" {
		signIn = &SignIn{Issuer: cfg.Issuer, ClientID: cfg.ClientID, Scopes: cfg.Scopes, ByIDToken: cfg.ClientID == cfg.Audience}
	}
	var names []string
	for _, a := range algorithms() {
		names = append(names, string(a))
	}
	return &OIDC{
		issuer:      cfg.Issuer,
		claims:      cfg.Claims.withDefaults(),
		parties:     parties,
		maxLifetime: cmp.Or(cfg.MaxLifetime, defaultMaxLifetime),
		keys:        newKeySource(cfg.Issuer, cfg.HTTPClient, cfg.Now),
		signIn:      signIn,
		config:      &oidc.Config{ClientID: cfg.Audience, SupportedSigningAlgs: names, Now: cfg.Now},
	}, nil
}

// verify checks a JWT in compact form and reads the principal from its claims. It checks the algorithm and signature, "iss"
// and "aud", "exp" (required), "nbf" (if present; with the library's five minutes of leeway), and what the token is for.
func (o *OIDC) verify(ctx context.Context, jwt string) (Principal, error) {
	keys := &callKeys{source: o.keys}
	token, err := oidc.NewVerifier(o.issuer, keys, o.config).Verify(ctx, jwt)
	if err != nil {
		return Principal{}, o.cause(keys, err)
	}
	if !token.Expiry.After(o.config.Now()) { // the library accepts a token at the instant of its expiry
		return Principal{}, unauthenticated(errExpired)
	}
	claims, err := decodeClaims(keys.payload)
	if err != nil {
		return Principal{}, err
	}
	if err := o.checkPurpose(jwt, claims, token.Expiry); err != nil {
		return Principal{}, err
	}
	p := Principal{Method: MethodOIDC, ExpiresAt: token.Expiry}
	var errs [3]error
	p.CustomerID, errs[0] = claims.id(o.claims.Customer)
	p.UserID, errs[1] = claims.id(o.claims.User)
	p.ProjectID, errs[2] = claims.id(o.claims.Project)
	if err := cmp.Or(errs[:]...); err != nil {
		return Principal{}, err
	}
	return p, nil
}

const (
	defaultMaxLifetime = 24 * time.Hour
	// issuedLeeway is how far the issuer's clock may be ahead.
	issuedLeeway = time.Minute
)

// checkPurpose refuses a verified JWT that is not a session token (RFC 8725, sections 3.11 and 3.12), is for another
// client, was issued in the future or lasts too long.
func (o *OIDC) checkPurpose(jwt string, claims claimSet, expiry time.Time) error {
	head, _, _ := strings.Cut(jwt, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return unauthenticated(errAlgorithm)
	}
	var header map[string]json.RawMessage
	if json.Unmarshal(decoded, &header) != nil || !isSessionType(header["typ"]) || claims["events"] != nil {
		return unauthenticated(errPurpose)
	}
	if raw, ok := claims["azp"]; ok {
		var party string
		if json.Unmarshal(raw, &party) != nil || !slices.Contains(o.parties, party) {
			return unauthenticated(errParty)
		}
	}
	now := o.config.Now()
	issued := now
	if raw, ok := claims["iat"]; ok {
		var seconds *float64
		if json.Unmarshal(raw, &seconds) != nil || seconds == nil || *seconds < 0 || *seconds > maxSeconds {
			return unauthenticated(errLifetime)
		}
		issued = time.Unix(int64(*seconds), 0)
	}
	if issued.After(now.Add(issuedLeeway)) || expiry.Sub(issued) > o.maxLifetime {
		return unauthenticated(errLifetime)
	}
	return nil
}

// maxSeconds is a time far beyond every token's, in seconds since 1970.
const maxSeconds = 1 << 40

// isSessionType reports whether a session token may have this "typ" in its JWT header. The "typ" is a media type, or
// absent.
func isSessionType(raw json.RawMessage) bool {
	if raw == nil {
		return true
	}
	var typ *string
	if json.Unmarshal(raw, &typ) != nil || typ == nil {
		return false
	}
	name := strings.TrimPrefix(strings.ToLower(*typ), "application/")
	return name == "jwt" || name == "at+jwt"
}

// Probe returns nil if the issuer's documents can be read; session tokens can't be verified without them. Unless the
// documents are cached, Probe fetches them, for at most 5 s. Its error wraps ErrIssuerUnavailable.
func (o *OIDC) Probe(ctx context.Context) error {
	_, err := o.keys.current(ctx, false)
	return err
}

// cause returns why the library refused the token. The library's own error quotes the token, so it is not passed on.
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

// callKeys is the key set for one call. The library turns a key set's error into text; callKeys keeps the error itself, so
// that an unreachable issuer can be distinguished from a bad signature.
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

// isSecureURL reports whether an answer from u is authentic: it comes over TLS, or does not leave this machine.
func isSecureURL(u *url.URL) bool {
	host := u.Hostname()
	return host != "" && (u.Scheme == "https" || u.Scheme == "http" && netaddr.IsLoopback(host))
}

// ClaimNames names the top-level claims of a session token that hold the ids of a Principal.
//
// Each claim must be a string with the form of an id: 1 to 64 characters of [A-Za-z0-9._-], and not "-", "." or "..",
// which mean something else in a path. Any other value, such as "auth0|abc" or an e-mail address, is refused rather
// than altered, since altering could give two users the same id. If the issuer has such subjects, have it add a claim
// that is an id and name that claim here.
type ClaimNames struct {
	// Customer defaults to "customer_id", User to "sub", Project to "project_id".
	Customer string
	User     string
	Project  string
}

// ParseClaimNames parses names such as "customer=org_id,user=sub,project=proj". Names that are not given have their defaults.
// An unknown, repeated or empty name is an error.
func ParseClaimNames(text string) (ClaimNames, error) {
	var names ClaimNames
	fields := map[string]*string{"customer": &names.Customer, "user": &names.User, "project": &names.Project}
	if strings.TrimSpace(text) == "" {
		return names.withDefaults(), nil
	}
	for pair := range strings.SplitSeq(text, ",") {
		field, claim, _ := strings.Cut(strings.TrimSpace(pair), "=")
		to, known := fields[field]
		switch {
		case !known:
			return ClaimNames{}, fmt.Errorf("claim names: %q must be customer, user or project", field)
		case claim == "":
			return ClaimNames{}, fmt.Errorf("claim names: %q names no claim", field)
		case *to != "":
			return ClaimNames{}, fmt.Errorf("claim names: %q is given twice", field)
		}
		*to = claim
	}
	return names.withDefaults(), nil
}

func (n ClaimNames) withDefaults() ClaimNames {
	return ClaimNames{
		Customer: cmp.Or(n.Customer, "customer_id"), User: cmp.Or(n.User, "sub"), Project: cmp.Or(n.Project, "project_id"),
	}
}

// claimSet is the payload of a verified JWT.
type claimSet map[string]json.RawMessage

// decodeClaims parses a payload. It refuses a payload with a registered claim in another letter case: go-oidc reads claims
// without regard to case, so "Aud" could stand in for "aud".
func decodeClaims(payload []byte) (claimSet, error) {
	var claims claimSet
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, unauthenticated(errClaims)
	}
	for name := range claims {
		for _, registered := range []string{"iss", "aud", "exp", "nbf", "iat", "azp", "events"} {
			if name != registered && strings.EqualFold(name, registered) {
				return nil, unauthenticated(errClaims)
			}
		}
	}
	return claims, nil
}

// id returns a claim that must be an id. Its error names the claim, which is configuration, but not the value.
func (c claimSet) id(name string) (string, error) {
	var id string
	err := json.Unmarshal(c[name], &id)
	if err != nil || !models.ValidID(id) {
		return "", unauthenticated(fmt.Errorf("JWT's claim %q is missing or not an id; "+
			"an id is 1 to 64 characters of [A-Za-z0-9._-], and neither a dash nor dots alone", name))
	}
	return id, nil
}

// SignIn is how people get a session token from the issuer: with a public client, by the authorization code flow with PKCE or the
// device flow.
type SignIn struct {
	Issuer   string
	ClientID string
	Scopes   []string
	// ByIDToken reports whether the ID token is the session token, rather than the access token. An ID token is for the client (its
	// "aud"), so it can be the session token only where the client is the audience.
	ByIDToken bool
}

// SignIn returns how people sign in; nil if they can't. The caller must not change it.
func (o *OIDC) SignIn() *SignIn {
	if o == nil {
		return nil
	}
	return o.signIn
}

// discovery has the members of the issuer's discovery document that the service reads
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

// ProbeSignIn returns an error that wraps ErrSignInImpossible if the issuer's discovery document lacks what the
// authorization code flow needs. hasDeviceFlow is whether the document has an endpoint for the device flow. A document
// that names no challenge methods is accepted, because some issuers support S256 without saying so.
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

// SignInServers returns the URLs from which a browser requests a session token: the issuer's URL and the token
// endpoint's URL, which may be at another host. It returns nil if people can't sign in. The issuer's discovery document
// names the token endpoint. If the document is not cached, SignInServers waits for it until ctx ends. If the document
// can't be read, SignInServers returns only the issuer's URL.
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
