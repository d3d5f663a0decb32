package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"

	"github.com/agentrouter/aikeys/internal/filereload"
)

// credentials are what mutual TLS needs.
type credentials struct {
	certificate tls.Certificate
	clients     *x509.CertPool
}

// readCredentials reads the three files, or says which can't be used.
func (s *config) readCredentials() (*credentials, error) {
	certificate, err := tls.LoadX509KeyPair(s.TLSCert, s.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", s.Of("tls-cert").Given(), s.Of("tls-key").Given(), err)
	}
	text, err := os.ReadFile(s.TLSClientCA)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Of("tls-client-ca").Given(), err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: %s holds no certificate in PEM", s.Of("tls-client-ca").Given(), s.TLSClientCA)
	}
	return &credentials{certificate, pool}, nil
}

// mutualTLS makes every client show a certificate that the authorities vouch for. No session is resumed: each connection
// is checked against the files as they are.
func (s *config) mutualTLS(log *slog.Logger) (*tls.Config, error) {
	current, err := filereload.New("TLS certificates", log, s.readCredentials, s.TLSCert, s.TLSKey, s.TLSClientCA)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			now := current.Get(hello.Context())
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{now.certificate},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: now.clients,
				SessionTicketsDisabled: true, NextProtos: []string{"http/1.1"},
			}, nil
		},
	}, nil
}
