package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/internal/identity"
)

// CertificateSessions opens the sessions of client certificates; *session.Authenticator is one.
type CertificateSessions interface {
	AuthenticateCertificate(ctx context.Context, names []string) (auth.Principal, error)
}

// hasCertificate tells whether a client has shown a certificate that was verified.
func hasCertificate(r *http.Request) bool { return r.TLS != nil && len(r.TLS.VerifiedChains) > 0 }

// openCertificate opens the session of a client's certificate. It ends with the certificate at the latest.
func (a *API) openCertificate(w http.ResponseWriter, r *http.Request) (auth.Principal, error) {
	now := time.Now()
	identities, until := identity.OfCertificate(r.TLS, now)
	left := until.Sub(now)
	if left <= 0 {
		return auth.Principal{}, fmt.Errorf("%w: the client certificate has expired", auth.ErrUnauthenticated)
	}
	// A connection that is used in its certificate's last minute is closed, and one that is not is closed as idle: who has
	// a new certificate by then loses no request to the old one.
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
