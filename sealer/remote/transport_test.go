package remote_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/filereload/filereloadtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// files are the files of a client.
type files struct{ cert, key, ca string }

// newFiles issues a certificate with a common name, and names the authority to trust.
func newFiles(t testing.TB, name string, signer, trusted *tlsfilestest.Authority) files {
	t.Helper()
	issued := signer.Issue(t, t.TempDir(), named(name))
	return files{issued.CertFile, issued.KeyFile, trusted.Write(t, filepath.Join(t.TempDir(), "ca.crt"))}
}

// named makes a certificate one for name and 127.0.0.1, for clients and servers.
func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.CommonName, c.IPAddresses = name, []net.IP{net.IPv4(127, 0, 0, 1)}
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
}

// tlsStandIn is a stand-in that wants certificates of clients. It trusts, and is signed by, one authority.
type tlsStandIn struct {
	*fakeService
	url   string
	mu    sync.Mutex
	names []string // of the clients that connected
}

func newTLSStandIn(t testing.TB, a *tlsfilestest.Authority) *tlsStandIn {
	t.Helper()
	s := &tlsStandIn{fakeService: &fakeService{backend: sealertest.New(t)}}
	f := newFiles(t, "secrets-svc", a, a)
	pair, err := tlsfiles.ReadPair(f.cert, f.key)
	require.NoError(t, err)
	trusted, err := tlsfiles.ReadPool(f.ca)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.url = "https://" + listener.Addr().String()
	s.serveOn(t, tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{*pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
		VerifyConnection: func(state tls.ConnectionState) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.names = append(s.names, state.PeerCertificates[0].Subject.CommonName)
			return nil
		},
	}))
	return s
}

func (s *tlsStandIn) connected() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.names...)
}

func (s *tlsStandIn) over(f files) func(*remote.Config) {
	return func(cfg *remote.Config) {
		*cfg = remote.Config{URL: s.url, CertFile: f.cert, KeyFile: f.key, CAFile: f.ca}
	}
}

func TestContractOverMutualTLS(t *testing.T) {
	a := tlsfilestest.NewAuthority(t)
	sealertest.Run(t, func(t *testing.T) sealer.Sealer {
		f := newFiles(t, "aikeysd", a, a)
		s := newTLSStandIn(t, a)
		return s.client(t, s.over(f))
	})
}

func TestServerOfAnotherAuthority(t *testing.T) {
	a, other := tlsfilestest.NewAuthority(t), tlsfilestest.NewAuthority(t)
	f := newFiles(t, "aikeysd", a, other)
	s := newTLSStandIn(t, a)
	_, err := s.client(t, s.over(f)).Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorContains(t, err, "certificate")
	require.Zero(t, s.requests.Load())
}

func TestClientOfAnotherAuthority(t *testing.T) {
	a, other := tlsfilestest.NewAuthority(t), tlsfilestest.NewAuthority(t)
	f := newFiles(t, "aikeysd", other, a)
	s := newTLSStandIn(t, a)
	_, err := s.client(t, s.over(f)).Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.Zero(t, s.requests.Load())
}

func TestRenewedFiles(t *testing.T) {
	a := tlsfilestest.NewAuthority(t)
	f, next := newFiles(t, "before", a, a), newFiles(t, "after", a, a)
	s := newTLSStandIn(t, a)
	var log bytes.Buffer // written by the calls, which follow one another
	client := s.client(t, s.over(f), func(cfg *remote.Config) { cfg.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	connectedAs := func() string {
		require.NoError(t, client.Close()) // so that the next call makes a connection
		mustSeal(t, client)
		names := s.connected()
		return names[len(names)-1]
	}
	require.Equal(t, "before", connectedAs())

	certificate, err := os.ReadFile(next.cert)
	require.NoError(t, err)
	key, err := os.ReadFile(next.key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.cert, certificate, 0o600)) // half a renewal
	filereloadtest.ReplaceAfterFailure(t, f.key, key, func() bool {
		require.Equal(t, "before", connectedAs())
		return strings.Contains(log.String(), "failed to find any PEM data in key input")
	})
	require.Eventually(t, func() bool { return connectedAs() == "after" }, 5*time.Second, 10*time.Millisecond)
}
