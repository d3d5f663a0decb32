package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/models"
)

// Sessions opens the sessions of Authorization headers; *Authenticator is one.
type Sessions interface {
	Authenticate(ctx context.Context, authorization string) (Principal, error)
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
	// FailureRate limits the failed authentications of each address.
	FailureRate ratelimit.Rate
}

// maxSuspects is how many credentials from addresses that are over the limit of failures are looked up at a time. It keeps
// what guessers cost the database small, and yet serves a neighbour of theirs who has a valid credential, if a little later.
const maxSuspects = 2

type middleware struct {
	MiddlewareConfig
	principals *ratelimit.Limiter[string]
	failures   *ratelimit.Limiter[string] // by addressKey
	suspects   chan struct{}              // a semaphore of maxSuspects
}

// Middleware returns the middleware that authenticates requests and limits how many there may be. The handlers behind it
// find the result with PrincipalFrom.
func Middleware(cfg MiddlewareConfig) echo.MiddlewareFunc {
	m := &middleware{
		MiddlewareConfig: cfg,
		principals:       ratelimit.New[string](cfg.PrincipalRate),
		failures:         ratelimit.New[string](cfg.FailureRate),
		suspects:         make(chan struct{}, maxSuspects),
	}
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
		address := addressKey(call.SourceIP)
		principal, err := m.openSession(c, address)
		if errors.Is(err, ErrUnauthenticated) && !m.failures.Allow(address) {
			return &problem.Wait{Kind: httpapi.ErrTooManyRequests, Seconds: m.failures.RetryAfter()}
		}
		if err != nil {
			return err
		}
		call.Actor = principal
		if !m.principals.Allow(principal.CustomerID + "/" + principal.UserID) {
			return &problem.Wait{Kind: httpapi.ErrTooManyRequests, Seconds: m.principals.RetryAfter()}
		}
		err = next(c)
		if errors.Is(err, models.ErrSessionEnded) || errors.Is(err, models.ErrDataPlaneEnded) {
			m.Sessions.Drop(cmp.Or(principal.TokenID, principal.DataPlaneID))
		}
		return err
	}
}

// openSession opens the session of the request's credential: its Authorization header or, without one, its client
// certificate.
func (m *middleware) openSession(c echo.Context, address string) (Principal, error) {
	r := c.Request()
	ctx, headers := r.Context(), r.Header.Values("Authorization")
	hasCertificate := len(headers) == 0 && m.Certificates != nil && r.TLS != nil && len(r.TLS.VerifiedChains) > 0
	if len(headers) != 1 && !hasCertificate {
		return Principal{}, fmt.Errorf("%w: %d Authorization headers", ErrUnauthenticated, len(headers))
	}
	if m.failures.Exhausted(address) {
		select {
		case m.suspects <- struct{}{}:
			defer func() { <-m.suspects }()
		case <-ctx.Done():
			return Principal{}, ctx.Err()
		}
	}
	if hasCertificate {
		return m.openCertificate(c.Response(), r)
	}
	return m.Sessions.Authenticate(ctx, headers[0])
}

// openCertificate opens the session of a client certificate. The session ends with the certificate at the latest.
func (m *middleware) openCertificate(w http.ResponseWriter, r *http.Request) (Principal, error) {
	now := time.Now()
	identities, until := identity.OfCertificate(r.TLS, now)
	left := until.Sub(now)
	if left <= 0 {
		return Principal{}, fmt.Errorf("%w: the client certificate has expired", ErrUnauthenticated)
	}
	// A connection that is used in the last minute of its certificate is closed after the answer, and one that is not used is
	// closed as idle. So a client that has a new certificate by then loses no request to the old one.
	if left < httpapi.IdleTimeout {
		w.Header().Set("Connection", "close")
	}
	names := make([]string, len(identities))
	for i, name := range identities {
		names[i] = name.String()
	}
	principal, err := m.Certificates.AuthenticateCertificate(r.Context(), names)
	if err == nil && (principal.ExpiresAt.IsZero() || until.Before(principal.ExpiresAt)) {
		principal.ExpiresAt = until
	}
	return principal, err
}

// addressKey returns the key under which the failures of an address are counted: the address itself for IPv4, the /64 for
// IPv6, since one host usually has a whole /64.
func addressKey(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Unmap().Is4() {
		return ip
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return ip
	}
	return prefix.String()
}
