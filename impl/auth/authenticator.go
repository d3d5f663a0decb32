package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/agentrouter/aikeys/models"
)

const (
	defaultCacheSize = 10_000
	defaultCacheTTL  = 500 * time.Millisecond
	maxCacheTTL      = 900 * time.Millisecond
	// jwtCacheTTL may be long: a JWT can't be revoked, so only its expiry ends it, and the keys that verified it are
	// themselves kept longer.
	jwtCacheTTL = time.Minute
	// lookUpTimeout bounds a shared look-up, whose callers' own deadlines do not apply.
	lookUpTimeout = 6 * time.Second
)

// TokenFinder finds the row of an API key by its ULID, live or not. It returns an error that wraps models.ErrNotFound
// when there is none and models.ErrUnavailable when the database can't be asked.
type TokenFinder interface {
	FindToken(ctx context.Context, id string) (models.Token, error)
}

// CertificateFinder finds the row that the names in a client certificate stand for, as if it were an API key's, and with the
// errors of a TokenFinder.
type CertificateFinder interface {
	FindCertificate(ctx context.Context, names []string) (models.Token, error)
}

// Config is what an Authenticator needs. Tokens is required.
type Config struct {
	Tokens TokenFinder
	// Certificates finds out who has a client certificate; nil: none are accepted.
	Certificates CertificateFinder
	// Prefix says which tokens of ours open sessions: APIKeyPrefix, which empty means too, or DataPlanePrefix.
	Prefix string
	// OIDC verifies session tokens; nil: none are accepted.
	OIDC *OIDC
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// CacheSize is the number of sessions to keep; 0 means 10,000.
	CacheSize int
	// CacheTTL is how long the session of an API key is served without asking Tokens; 0 means 500 ms, and more than 900 ms
	// is taken as 900 ms. It bounds what a revocation made by another process can escape where nothing else asks; the
	// statements that serve a request do ask, and end a revoked session at once.
	CacheTTL time.Duration
}

// Authenticator opens sessions. It is safe for concurrent use and owns no goroutine beyond look-ups, which end by
// themselves.
type Authenticator struct {
	tokens       TokenFinder
	certificates CertificateFinder
	prefix       string
	method       Method
	oidc         *OIDC
	now          func() time.Time
	ttl          time.Duration
	cache        *otter.Cache[cacheKey, *entry]
	lookUps      flight[*entry]
	epochs       epochs
}

// entry is a cached session. It says itself until when it may be served; the cache only bounds their number.
type entry struct {
	principal Principal
	until     time.Time
	epoch     uint64
}

// New returns an Authenticator.
func New(cfg Config) *Authenticator {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CacheSize <= 0 {
		cfg.CacheSize = defaultCacheSize
	}
	if cfg.CacheTTL <= 0 {
		cfg.CacheTTL = defaultCacheTTL
	}
	if cfg.Prefix == "" {
		cfg.Prefix = APIKeyPrefix
	}
	method := MethodAPIKey
	if cfg.Prefix == DataPlanePrefix {
		method = MethodDataPlane
	}
	return &Authenticator{
		tokens:       cfg.Tokens,
		certificates: cfg.Certificates,
		prefix:       cfg.Prefix,
		method:       method,
		oidc:         cfg.OIDC,
		now:          cfg.Now,
		ttl:          min(cfg.CacheTTL, maxCacheTTL),
		cache:        otter.Must(&otter.Options[cacheKey, *entry]{MaximumSize: cfg.CacheSize}),
		lookUps:      flight[*entry]{timeout: lookUpTimeout},
	}
}

// Authenticate returns who the bearer of an Authorization header is. A request with more than one such header must be
// refused before. Errors wrap ErrUnauthenticated when the header opens no session, models.ErrUnavailable or
// ErrIssuerUnavailable when that can't be told now, and ctx's error when ctx ended first.
func (a *Authenticator) Authenticate(ctx context.Context, authorization string) (Principal, error) {
	token, err := bearerToken(authorization)
	if err != nil {
		return Principal{}, unauthenticated(err)
	}
	now, key := a.now(), keyOf(token)
	if p, ok := a.cached(key, now); ok {
		return p, nil
	}
	cred, err := parseToken(a.prefix, token)
	if err != nil {
		return Principal{}, err
	}
	return a.lookUp(ctx, key, cred, now)
}

func (a *Authenticator) cached(key cacheKey, now time.Time) (Principal, bool) {
	if e, ok := a.cache.GetIfPresent(key); ok && e.serves(now, a.epochs.of(e.principal.TokenID)) {
		return e.principal, true
	}
	return Principal{}, false
}

// Drop forgets the sessions of a revoked API key (its ULID) on this process, at once: a request that begins after Drop
// returns is answered by a look-up that began after it too. Call it when the revocation is committed, not before.
func (a *Authenticator) Drop(tokenID string) { a.epochs.advance(tokenID) }

// serves tells whether the session may answer a request that began at now, in the given epoch of its token.
func (e *entry) serves(now time.Time, epoch uint64) bool {
	return e.epoch >= epoch && now.Before(e.until)
}

// lookUp opens the session of a credential and caches it. Callers with the same credential share one look-up.
func (a *Authenticator) lookUp(ctx context.Context, key cacheKey, cred credential, now time.Time) (Principal, error) {
	epochs := a.epochs.snapshot()
	// A look-up that was joined may have begun too long ago, or before a Drop. The next one begins after this call; when
	// not even that serves, the credential expires at this very moment.
	for range 2 {
		e, err := a.lookUps.do(ctx, key.String(), func(ctx context.Context) (*entry, error) {
			return a.open(ctx, key, cred)
		})
		if err != nil {
			return Principal{}, fmt.Errorf("authenticate: %w", err)
		}
		if e.serves(now, epochs.of(e.principal.TokenID)) {
			return e.principal, nil
		}
	}
	return Principal{}, unauthenticated(errExpired)
}

// open asks for the session of a credential. Epochs and time are read before the question, so that an answer that a
// revocation overtook counts as of then, and Drop has voided it already.
func (a *Authenticator) open(ctx context.Context, key cacheKey, cred credential) (*entry, error) {
	epochs, start := a.epochs.snapshot(), a.now()
	p, ttl, err := a.verify(ctx, cred, start)
	if err != nil {
		return nil, err
	}
	e := &entry{principal: p, until: start.Add(ttl), epoch: epochs.of(p.TokenID)}
	if !p.ExpiresAt.IsZero() && p.ExpiresAt.Before(e.until) {
		e.until = p.ExpiresAt
	}
	a.cache.Set(key, e)
	return e, nil
}

// verify returns who bears the credential and for how long that may be believed.
func (a *Authenticator) verify(ctx context.Context, cred credential, now time.Time) (Principal, time.Duration, error) {
	if cred.jwt == "" {
		find := a.findKey
		if len(cred.names) > 0 {
			find = a.findCertificate
		}
		p, err := find(ctx, cred, now)
		return p, a.ttl, err
	}
	if a.oidc == nil {
		return Principal{}, 0, unauthenticated(errNoIssuer)
	}
	p, err := a.oidc.verify(ctx, cred.jwt)
	return p, jwtCacheTTL, err
}

// findKey opens the session of an API key. An unknown id costs the same comparison as a known one, and only who knows
// the secret learns more than "unknown".
func (a *Authenticator) findKey(ctx context.Context, cred credential, now time.Time) (Principal, error) {
	token, err := a.tokens.FindToken(ctx, cred.id)
	found := err == nil
	if !found && !errors.Is(err, models.ErrNotFound) {
		return Principal{}, fmt.Errorf("find API key: %w", unavailableIfLate(ctx, err))
	}
	want := token.Hash
	if !found {
		want = make([]byte, sha256.Size)
	}
	match := subtle.ConstantTimeCompare(want, cred.hash[:]) == 1
	if !found || !match {
		return Principal{}, unauthenticated(errUnknown)
	}
	return a.principalOf(token, now)
}

// unavailableIfLate says of a look-up that ran out of time that the database was unavailable.
func unavailableIfLate(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", models.ErrUnavailable, err)
	}
	return err
}

// principalOf returns who a token stands for, if it is live.
func (a *Authenticator) principalOf(token models.Token, now time.Time) (Principal, error) {
	switch {
	case token.RevokedAt != 0:
		return Principal{}, unauthenticated(errRevoked)
	case !token.Live(now.UnixMicro()):
		return Principal{}, unauthenticated(errExpired)
	}
	p := Principal{
		CustomerID: token.CustomerID,
		UserID:     token.UserID,
		ProjectID:  token.ProjectID,
		TokenID:    token.ID,
		Method:     a.method,
	}
	if token.ExpiresAt != 0 {
		p.ExpiresAt = time.UnixMicro(token.ExpiresAt)
	}
	return p, nil
}
