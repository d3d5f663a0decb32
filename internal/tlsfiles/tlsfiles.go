// Package tlsfiles reads certificates, private keys and certificate authorities from PEM files, reads them again when they
// are renewed, and configures TLS servers with them.
package tlsfiles

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"

	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/internal/secretfile"
)

// Pair is a certificate chain with its private key, read again when the files change.
type Pair = filereload.Value[*tls.Certificate]

// Pool is a set of certificate authorities, read again when the file changes.
type Pool = filereload.Value[*x509.CertPool]

// OpenPair reads a certificate chain and its private key. The log calls the pair by name.
func OpenPair(name, certFile, keyFile string, log *slog.Logger) (*Pair, error) {
	return filereload.Open(filereload.Source[*tls.Certificate]{
		Name: name, Files: []string{certFile, keyFile}, Log: log,
		Load: func() (*tls.Certificate, error) { return ReadPair(certFile, keyFile) },
		Describe: func(pair *tls.Certificate) []slog.Attr {
			return []slog.Attr{slog.Time("expires", pair.Leaf.NotAfter)}
		},
	})
}

// OpenPool reads the certificates of authorities. The log calls the pool by name.
func OpenPool(name, file string, log *slog.Logger) (*Pool, error) {
	return filereload.Open(filereload.Source[*x509.CertPool]{
		Name: name, Files: []string{file}, Log: log,
		Load: func() (*x509.CertPool, error) { return ReadPool(file) },
	})
}

// ReadPair reads a certificate chain and its private key once. The file of the key must be as secretfile.Read requires.
func ReadPair(certFile, keyFile string) (*tls.Certificate, error) {
	chain, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	key, err := secretfile.Read(keyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w", err)
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s and key %s: %w", certFile, keyFile, err)
	}
	return &pair, nil
}

// ReadPool reads the certificates of authorities once.
func ReadPool(file string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	return pool, addCertificates(pool, file)
}

func addCertificates(pool *x509.CertPool, file string) error {
	text, err := os.ReadFile(file)
	if err == nil && !pool.AppendCertsFromPEM(text) {
		err = fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return err
}

// AddToSystemPool returns the authorities that this machine trusts, and the authorities in a file. It reads the file
// once.
func AddToSystemPool(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	return pool, addCertificates(pool, file)
}

// ServerConfig returns the TLS configuration of a server that asks clients for no certificate.
func ServerConfig(own *Pair) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return own.Get(hello.Context()), nil
		},
	}
}

// MutualConfig returns the TLS configuration of a server that asks clients for a certificate of the given authorities. A
// certificate of another authority ends the connection; policy says whether a client must have one. Sessions are not
// resumed, so that every connection is checked against the current authorities.
func MutualConfig(own *Pair, clients *Pool, policy tls.ClientAuthType, minVersion uint16, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: minVersion,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{
				MinVersion: minVersion, Certificates: []tls.Certificate{*own.Get(hello.Context())},
				ClientAuth: policy, ClientCAs: clients.Get(hello.Context()),
				SessionTicketsDisabled: true, NextProtos: protocols,
			}, nil
		},
	}
}

// ClientCertificate returns the GetClientCertificate of a client that authenticates with own.
func ClientCertificate(own *Pair) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return own.Get(request.Context()), nil
	}
}

// ClientConfig returns the TLS configuration of a client that authenticates with own and trusts only the given authorities.
// It is for one connection: a renewed certificate needs a new call.
func ClientConfig(ctx context.Context, own *Pair, authorities *Pool, serverName string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: serverName,
		RootCAs: authorities.Get(ctx), Certificates: []tls.Certificate{*own.Get(ctx)},
	}
}
