package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/internal/identity"
)

// CertificateSessions opens the sessions of client certificates; *session.Authenticator is one.
type CertificateSessions interface {
	AuthenticateCertificate(ctx context.Context, names []string) (auth.Principal, error)
}

// ClientAuthorities are those who may vouch for clients. Their certificates are read again when their file has changed.
type ClientAuthorities struct {
	pool *filereload.Value[*x509.CertPool]
}

// LoadClientAuthorities reads the certificates of a file, in PEM, or says why they can't be used.
func LoadClientAuthorities(file string, log *slog.Logger) (*ClientAuthorities, error) {
	pool, err := filereload.New("client CA file", log, func() (*x509.CertPool, error) { return readPool(file) }, file)
	if err != nil {
		return nil, err
	}
	return &ClientAuthorities{pool}, nil
}

func readPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return pool, nil
}

// asking returns a configuration that asks clients for a certificate, which they need not have. One that nobody here vouches
// for ends the connection. No session is resumed: each connection is checked against the authorities as they are.
func (a *ClientAuthorities) asking(certificates *Certificates) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{
				MinVersion: tls.VersionTLS12, GetCertificate: certificates.get,
				ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: a.pool.Get(hello.Context()),
				SessionTicketsDisabled: true, NextProtos: []string{"h2", "http/1.1"},
			}, nil
		},
	}
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
