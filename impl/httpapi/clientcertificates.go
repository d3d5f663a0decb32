package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/internal/identity"
)

// CertificateSessions opens sessions for client certificates. *auth.Authenticator implements it.
type CertificateSessions interface {
	AuthenticateCertificate(ctx context.Context, names []string) (auth.Principal, error)
}

// hasCertificate reports whether the client has a verified certificate.
func hasCertificate(r *http.Request) bool { return r.TLS != nil && len(r.TLS.VerifiedChains) > 0 }

// openCertificate opens the session of a client certificate. The session ends when the certificate expires, or before.
func (a *API) openCertificate(w http.ResponseWriter, r *http.Request) (auth.Principal, error) {
	now := time.Now()
	identities, until := identity.OfCertificate(r.TLS, now)
	left := until.Sub(now)
	if left <= 0 {
		return auth.Principal{}, fmt.Errorf("%w: the client certificate has expired", auth.ErrUnauthenticated)
	}
	// A connection that is used in the last minute of its certificate is closed after the answer, and one that is not used is
	// closed as idle. So a client with a renewed certificate loses no request because of the old one.
	if left < idleTimeout {
		w.Header().Set("Connection", "close")
	}
	names := make([]string, len(identities))
	for i, name := range identities {
		names[i] = name.String()
	}
	principal, err := a.certificates.AuthenticateCertificate(r.Context(), names)
	if err == nil && (principal.ExpiresAt.IsZero() || until.Before(principal.ExpiresAt)) {
		principal.ExpiresAt = until
	}
	return principal, err
}
