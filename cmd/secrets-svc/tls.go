package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"

	"github.com/agentrouter/aikeys/internal/tlsfiles"
)

// mutualTLS returns a TLS configuration that requires of every client a certificate of the configured authorities.
func (s *config) mutualTLS(log *slog.Logger) (*tls.Config, error) {
	own, err := tlsfiles.OpenPair("TLS certificate", s.TLSCert, s.TLSKey, log)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", s.Of("tls-cert").Given(), s.Of("tls-key").Given(), err)
	}
	clients, err := tlsfiles.OpenPool("client CA file", s.TLSClientCA, log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Of("tls-client-ca").Given(), err)
	}
	return tlsfiles.MutualConfig(own, clients, tls.RequireAndVerifyClientCert, tls.VersionTLS13, "http/1.1"), nil
}
