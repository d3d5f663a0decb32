// Package auth turns the credential of a request, most often its Authorization header, into a Principal: the user or the
// data plane on whose behalf the request acts.
//
// Users present one of two kinds of bearer token. An API key of this service carries its own id and checksum; its row is found by
// the id, and the SHA-256 of its secret part is compared in constant time. A session token is a JWT of the configured
// OpenID Connect issuer, verified with the keys that the issuer publishes. Data planes present a token with another
// prefix, or a client certificate that the connection has verified. An Authenticator accepts users or data planes, never
// both, so neither kind of credential opens a session of the other.
//
// Authentication has three outcomes, which callers can always tell apart: a Principal; ErrUnauthenticated, if the
// credential opens no session (401); models.ErrUnavailable or ErrIssuerUnavailable, if the credential can't be checked
// now (503). No error text and no value of this package holds a token or a piece of one.
//
// Sessions are cached briefly, so that a burst of requests costs one look-up. The cache decides nothing: the statement that
// serves a request checks the session again, so a revoked credential is refused at once even while it is cached.
//
// The package may import models, impl/httpapi and leaves.
package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/models"
)

// Method is the way in which a principal was authenticated.
type Method string

// The methods of a Principal.
const (
	MethodAPIKey    Method = "api_key"
	MethodOIDC      Method = "oidc"
	MethodDataPlane Method = "data_plane"
)

// Principal is the user or the data plane on whose behalf a request acts. Its ids are opaque, 1 to 64 characters of
// [A-Za-z0-9._-]. A user has all ids except DataPlaneID; a data plane has only DataPlaneID.
type Principal struct {
	CustomerID string
	UserID     string
	// ProjectID is the default project, for requests that name no project.
	ProjectID string
	// TokenID is the ULID of the user's API key; empty for MethodOIDC.
	TokenID string
	// DataPlaneID is the ULID of the data plane.
	DataPlaneID string
	Method      Method
	// ExpiresAt is when the session ends; zero means never.
	ExpiresAt time.Time
}

const (
	// cacheSize is how many sessions are cached.
	cacheSize = 10_000
	// cacheTTL is how long a session is served without a look-up. If another process revokes the credential, it still
	// works for at most this time in requests whose statements do not check the session again.
	cacheTTL = 500 * time.Millisecond
	// jwtCacheTTL may be longer: a JWT can't be revoked, it only expires.
	jwtCacheTTL = time.Minute
	// lookUpTimeout bounds a shared look-up. The deadlines of its callers do not apply to it.
	lookUpTimeout = 6 * time.Second
)

// TokenFinder finds the row of an API key by its ULID, even if the API key is revoked or expired; *models.Store is one.
// Errors wrap models.ErrNotFound if there is no such row, and models.ErrUnavailable if the database is unavailable.
type TokenFinder interface {
	FindToken(ctx context.Context, id string) (models.Token, error)
}

// DataPlaneFinder finds the rows of data planes; *models.Store is one. Its errors are like a TokenFinder's.
type DataPlaneFinder interface {
	// FindDataPlane finds a data plane by its ULID, live or not.
	FindDataPlane(ctx context.Context, id string) (models.DataPlane, error)
	// FindDataPlanesByCertificate finds the active data planes that have one of the names in a client certificate.
	FindDataPlanesByCertificate(ctx context.Context, names []string) ([]models.DataPlane, error)
}

// Config is what an Authenticator needs: either Tokens or DataPlanes.
type Config struct {
	// Tokens finds API keys, for an Authenticator of users.
	Tokens TokenFinder
	// DataPlanes finds data planes, for an Authenticator of data planes, which accepts no API key and no JWT.
	DataPlanes DataPlaneFinder
	// OIDC verifies session tokens; nil accepts none.
	OIDC *OIDC
	// Metrics counts the look-ups in the database; nil counts nothing.
	Metrics *Metrics
	// Uses notes when API keys are used; nil notes nothing.
	Uses *TokenUses
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Authenticator opens sessions. It is safe for concurrent use.
type Authenticator struct {
	cfg     Config
	cache   *otter.Cache[cacheKey, session]
	lookUps singleflight.Group // by cacheKey
}

// session is an entry of the cache. The entry expires by the injected clock. The cache itself only bounds the number of
// entries.
type session struct {
	principal Principal
	until     time.Time
}

// New returns an Authenticator.
func New(cfg Config) *Authenticator {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Authenticator{cfg: cfg, cache: otter.Must(&otter.Options[cacheKey, session]{MaximumSize: cacheSize})}
}

// Authenticate returns the principal of an Authorization header. Before calling Authenticate, the caller must refuse a
// request with several such headers. Errors wrap ErrUnauthenticated if the header opens no session,
// models.ErrUnavailable or ErrIssuerUnavailable if the credential can't be checked now, and ctx's error if ctx ends
// first.
func (a *Authenticator) Authenticate(ctx context.Context, authorization string) (Principal, error) {
	p, err := a.authenticate(ctx, authorization)
	if err == nil {
		a.cfg.Uses.note(p.TokenID, a.cfg.Now())
	}
	return p, err
}

func (a *Authenticator) authenticate(ctx context.Context, authorization string) (Principal, error) {
	token, err := bearerToken(authorization)
	if err != nil {
		return Principal{}, unauthenticated(err)
	}
	key := cacheKey{sum: sha256.Sum256([]byte(token))}
	if p, ok := a.cached(key); ok {
		return p, nil
	}
	verify, err := a.verifierOf(token)
	if err != nil {
		return Principal{}, err
	}
	return a.lookUp(ctx, key, verify)
}

// Cached returns the session of an Authorization header if it needs no look-up.
func (a *Authenticator) Cached(authorization string) (Principal, bool) {
	token, err := bearerToken(authorization)
	if err != nil {
		return Principal{}, false
	}
	return a.cached(cacheKey{sum: sha256.Sum256([]byte(token))})
}

// Drop removes the cached sessions of a revoked API key or data plane, by its ULID. Revocations are rare, so walking the
// cache costs less than an index by id.
func (a *Authenticator) Drop(id string) {
	for key, s := range a.cache.All() {
		if id == cmp.Or(s.principal.TokenID, s.principal.DataPlaneID) {
			a.cache.Invalidate(key)
		}
	}
}

func (a *Authenticator) cached(key cacheKey) (Principal, bool) {
	s, ok := a.cache.GetIfPresent(key)
	return s.principal, ok && a.cfg.Now().Before(s.until)
}

// verifier looks a credential up and returns its principal.
type verifier func(ctx context.Context, now time.Time) (Principal, error)

// verifierOf chooses how to verify a bearer token by its form: a token of this service, or a JWT.
func (a *Authenticator) verifierOf(token string) (verifier, error) {
	if isJWT(token) {
		if a.cfg.OIDC == nil {
			return nil, unauthenticated(errNoIssuer)
		}
		return func(ctx context.Context, _ time.Time) (Principal, error) { return a.cfg.OIDC.verify(ctx, token) }, nil
	}
	parse, verify := ParseAPIKey, a.verifyAPIKey
	if a.cfg.DataPlanes != nil {
		parse, verify = parseDataPlane, a.verifyDataPlane
	}
	id, hash, err := parse(token)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, now time.Time) (Principal, error) { return verify(ctx, id, hash, now) }, nil
}

// lookUp verifies a credential and caches its session. Callers with the same credential share one look-up. The look-up
// keeps the first caller's context values, but not its cancellation: a caller that gives up returns at once, and the
// look-up continues for the others.
func (a *Authenticator) lookUp(ctx context.Context, key cacheKey, verify verifier) (Principal, error) {
	p, err := shared(ctx, &a.lookUps, key.String(), lookUpTimeout, func(ctx context.Context) (Principal, error) {
		now := a.cfg.Now() // before the look-up, so that its duration counts against the TTL
		p, err := verify(ctx, now)
		if err != nil {
			return Principal{}, err
		}
		until := now.Add(cacheTTL)
		if p.Method == MethodOIDC {
			until = now.Add(jwtCacheTTL)
		}
		if !p.ExpiresAt.IsZero() && p.ExpiresAt.Before(until) {
			until = p.ExpiresAt
		}
		a.cache.Set(key, session{p, until})
		return p, nil
	})
	if err != nil {
		return Principal{}, fmt.Errorf("authenticate: %w", err)
	}
	return p, nil
}

// verifyAPIKey returns the principal of an API key. The hashes are compared even if the id is unknown, so that both
// cases cost the same comparison. A caller without the secret learns only that the API key is unknown, not that it is
// revoked or expired.
func (a *Authenticator) verifyAPIKey(ctx context.Context, id string, hash [sha256.Size]byte, now time.Time) (Principal, error) {
	a.cfg.Metrics.countLookUp()
	token, err := a.cfg.Tokens.FindToken(ctx, id)
	if err := checkSecret(ctx, token.Hash, hash, err); err != nil {
		return Principal{}, err
	}
	p := Principal{
		CustomerID: token.CustomerID,
		UserID:     token.UserID,
		ProjectID:  token.ProjectID,
		TokenID:    token.ID,
		Method:     MethodAPIKey,
	}
	return p.live(token.RevokedAt, token.ExpiresAt, now)
}

// checkSecret compares the hash of a presented secret with the stored one; findErr is the error of finding it.
func checkSecret(ctx context.Context, stored []byte, presented [sha256.Size]byte, findErr error) error {
	found := findErr == nil
	if !found && !errors.Is(findErr, models.ErrNotFound) {
		return fmt.Errorf("find credential: %w", unavailableIfLate(ctx, findErr))
	}
	if !found {
		stored = make([]byte, sha256.Size)
	}
	if match := subtle.ConstantTimeCompare(stored, presented[:]) == 1; !found || !match {
		return unauthenticated(errUnknown)
	}
	return nil
}

// unavailableIfLate returns models.ErrUnavailable for a look-up that ran out of time.
func unavailableIfLate(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", models.ErrUnavailable, err)
	}
	return err
}

// live returns the principal with its expiry, or ErrUnauthenticated if its credential is revoked or expired. revokedAt
// and expiresAt are in microseconds since 1970; 0 means never.
func (p Principal) live(revokedAt, expiresAt int64, now time.Time) (Principal, error) {
	switch {
	case revokedAt != 0:
		return Principal{}, unauthenticated(errRevoked)
	case expiresAt != 0 && expiresAt <= now.UnixMicro():
		return Principal{}, unauthenticated(errExpired)
	case expiresAt != 0:
		p.ExpiresAt = time.UnixMicro(expiresAt)
	}
	return p, nil
}

// shared returns the result of fn, or ctx's error if ctx ends first. Callers with the same key share one run of fn.
// Only the timeout ends the context of that run. A panic of fn becomes an error: otherwise it would end the process,
// since no caller's goroutine could recover it. The panic's value may hold a secret, so only the stack is kept.
func shared[T any](
	ctx context.Context, group *singleflight.Group, key string, timeout time.Duration, fn func(context.Context) (T, error),
) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	done := group.DoChan(key, func() (result any, err error) {
		defer func() {
			if recover() != nil {
				err = fmt.Errorf("panic in a shared look-up: %s", debug.Stack())
			}
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		return fn(ctx)
	})
	select {
	case <-ctx.Done():
		return none, ctx.Err()
	case r := <-done:
		if r.Err != nil {
			return none, r.Err
		}
		return r.Val.(T), nil //nolint:forcetypeassert,errcheck // each group has results of one type
	}
}

// Sessions opens the sessions of Authorization headers; *Authenticator is one.
type Sessions interface {
	Authenticate(ctx context.Context, authorization string) (Principal, error)
	// Cached returns the session of an Authorization header if it needs no look-up.
	Cached(authorization string) (Principal, bool)
	// Drop removes the cached sessions of an API key or data plane, by its ULID.
	Drop(id string)
}

// CertificateSessions opens the sessions of client certificates; *Authenticator is one.
type CertificateSessions interface {
	AuthenticateCertificate(ctx context.Context, names []string) (Principal, error)
}

// MiddlewareConfig is what a Middleware needs. Sessions is required.
type MiddlewareConfig struct {
	Sessions Sessions
	// Certificates opens the session of a request that has no Authorization header and came with a verified client
	// certificate; nil accepts no certificates.
	Certificates CertificateSessions
	// PrincipalRate limits the requests of each customer's user.
	PrincipalRate ratelimit.Rate
	// Guesses limits the failed authentications of each address: see NewGuesses. All APIs of a process share it, so an
	// address has one limit for all of them. Nil sets no limit.
	Guesses *ratelimit.Guesses
	// Metrics counts the authentications; nil counts nothing.
	Metrics *Metrics
}

// NewGuesses returns a limit on the failed authentications of each address. Refused requests are counted, and the first of an address in
// each minute is logged. metrics and log may be nil.
func NewGuesses(failures ratelimit.Rate, metrics *Metrics, log *slog.Logger) *ratelimit.Guesses {
	return ratelimit.NewGuesses(failures, func(ctx context.Context, address netip.Addr, isFirst bool) {
		metrics.countRefusedGuess()
		if isFirst && log != nil {
			log.WarnContext(ctx, "too many failed authentications", slog.String("source_ip", address.String()))
		}
	})
}

type middleware struct {
	MiddlewareConfig
	principals *ratelimit.Limiter[string]
}

// Middleware returns the middleware that authenticates requests and limits their rate. The handlers behind it find the
// result with PrincipalFrom.
func Middleware(cfg MiddlewareConfig) echo.MiddlewareFunc {
	m := &middleware{MiddlewareConfig: cfg, principals: ratelimit.New[string](cfg.PrincipalRate)}
	return m.authenticate
}

// PrincipalFrom returns the principal of the request that ctx belongs to; the zero Principal outside any.
func PrincipalFrom(ctx context.Context) Principal {
	principal, _ := httpapi.CallFrom(ctx).Actor.(Principal)
	return principal
}

// LogAttrs implements httpapi.Actor.
func (p Principal) LogAttrs() []slog.Attr {
	if p.Method == MethodDataPlane {
		return []slog.Attr{slog.String("data_plane_id", p.DataPlaneID)}
	}
	return []slog.Attr{
		slog.String("customer_id", p.CustomerID), slog.String("user_id", p.UserID), slog.String("token_id", p.TokenID),
	}
}

func (m *middleware) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		call := httpapi.CallFrom(c.Request().Context())
		address := netaddr.Host(netaddr.Parse(call.SourceIP))
		principal, err := m.openSession(c, address)
		if errors.Is(err, ErrUnauthenticated) && !m.Guesses.Fail(c.Request().Context(), address) {
			return m.tooManyGuesses()
		}
		if err != nil {
			return err
		}
		call.Actor = principal
		lifecycle.MarkAuthenticated(c.Request().Context())
		left, isAllowed := m.principals.Take(principal.CustomerID + "/" + principal.UserID)
		setQuota(c.Response().Header(), left)
		if !isAllowed {
			return &problem.Wait{Kind: httpapi.ErrTooManyRequests, Seconds: m.principals.RetryAfter()}
		}
		err = next(c)
		if errors.Is(err, models.ErrSessionEnded) || errors.Is(err, models.ErrDataPlaneEnded) {
			m.Sessions.Drop(cmp.Or(principal.TokenID, principal.DataPlaneID))
		}
		return err
	}
}

// setQuota sets the headers that say how much of the rate limit the caller has left
// (draft-ietf-httpapi-ratelimit-headers-06, section 3). It sets none if there is no limit. Later drafts put the three
// numbers into one structured field, which few clients read.
func setQuota(header http.Header, left ratelimit.Quota) {
	if left == (ratelimit.Quota{}) {
		return
	}
	header.Set("RateLimit-Limit", strconv.Itoa(left.Limit))
	header.Set("RateLimit-Remaining", strconv.Itoa(left.Remaining))
	header.Set("RateLimit-Reset", strconv.Itoa(left.Reset))
}

// openSession opens the session of the request's credential: its Authorization header or, without one, its client
// certificate.
func (m *middleware) openSession(c echo.Context, address netip.Addr) (Principal, error) {
	r := c.Request()
	ctx, headers := r.Context(), r.Header.Values("Authorization")
	hasCertificate := len(headers) == 0 && m.Certificates != nil && r.TLS != nil && len(r.TLS.VerifiedChains) > 0
	if len(headers) != 1 && !hasCertificate {
		return Principal{}, fmt.Errorf("%w: %d Authorization headers", ErrUnauthenticated, len(headers))
	}
	if hasCertificate { // it can't be a guess: the operator's authority has signed it
		return m.openCertificate(c.Response(), r)
	}
	if m.Guesses.IsSuspect(address) {
		if principal, ok := m.Sessions.Cached(headers[0]); ok {
			m.Metrics.countAuthentication(nil)
			return principal, nil
		}
		release, err := m.Guesses.Begin(ctx, address, isJWT(headers[0][strings.LastIndexByte(headers[0], ' ')+1:]))
		if err != nil {
			return Principal{}, err
		}
		if release == nil {
			return Principal{}, m.tooManyGuesses()
		}
		defer release()
	}
	principal, err := m.Sessions.Authenticate(ctx, headers[0])
	m.Metrics.countAuthentication(err)
	return principal, err
}

func (m *middleware) tooManyGuesses() error {
	return &problem.Wait{Kind: httpapi.ErrTooManyRequests, Seconds: m.Guesses.RetryAfter()}
}

// openCertificate opens the session of a client certificate. The session ends with the certificate at the latest.
func (m *middleware) openCertificate(w http.ResponseWriter, r *http.Request) (Principal, error) {
	now := time.Now()
	identities, until := identity.OfCertificate(r.TLS, now)
	left := until.Sub(now)
	if left <= 0 {
		return Principal{}, fmt.Errorf("%w: the client certificate has expired", ErrUnauthenticated)
	}
	// If a connection is used in the last minute of its certificate, it is closed after the answer. If it is not used,
	// it is closed as idle. So a client that has a new certificate by then loses no request because of the old one.
	if left < httpapi.IdleTimeout {
		w.Header().Set("Connection", "close")
	}
	names := make([]string, len(identities))
	for i, name := range identities {
		names[i] = name.String()
	}
	principal, err := m.Certificates.AuthenticateCertificate(r.Context(), names)
	m.Metrics.countAuthentication(err)
	if err == nil && (principal.ExpiresAt.IsZero() || until.Before(principal.ExpiresAt)) {
		principal.ExpiresAt = until
	}
	return principal, err
}

// bearerToken returns the token of an Authorization header: the scheme in any case, one or more spaces, and the token
// (RFC 6750, section 2.1; RFC 9110, section 11.4).
func bearerToken(authorization string) (string, error) {
	const scheme = "Bearer"
	if authorization == "" {
		return "", errMissing
	}
	if len(authorization) > maxHeaderLength {
		return "", errTooLong
	}
	if len(authorization) <= len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) ||
		authorization[len(scheme)] != ' ' {
		return "", errScheme
	}
	return strings.TrimLeft(authorization[len(scheme):], " "), nil
}

// isJWT reports whether a token is three parts of base64url with dots between. This is the compact form, the only form
// of a JWT (RFC 7519, section 1). Neither a JWT nor a service token can hold a comma, a space or a second token.
func isJWT(token string) bool {
	dots := 0
	for _, c := range []byte(token) {
		switch {
		case c == '.':
			dots++
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_':
		default:
			return false
		}
	}
	return dots == 2
}

// maxHeaderLength is the length in bytes of the longest Authorization header that is hashed and parsed. A JWT with a
// long list of groups is much shorter.
const maxHeaderLength = 8 << 10

// cacheKey stands for a credential in the cache of sessions: the SHA-256 of a token's whole text, or of the names in a
// certificate.
type cacheKey struct {
	ofNames bool
	sum     [sha256.Size]byte
}

// String returns a text that is unique to the key.
func (k cacheKey) String() string { return strconv.FormatBool(k.ofNames) + string(k.sum[:]) }
