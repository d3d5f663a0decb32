package remote_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{certificate, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// sign returns a certificate for a name and 127.0.0.1, and its key, both in PEM.
func (a *authority) sign(t testing.TB, name string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.certificate, private.Public(), a.key)
	require.NoError(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

// files are a client's, in a folder of its own.
type files struct{ cert, key, ca string }

func newFiles(t testing.TB) files {
	t.Helper()
	dir := t.TempDir()
	return files{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")}
}

// write puts a new certificate of an authority's into the files.
func (f files) write(t testing.TB, name string, signer, trusted *authority) {
	t.Helper()
	cert, key := signer.sign(t, name)
	require.NoError(t, os.WriteFile(f.ca, trusted.pem(), 0o600))
	require.NoError(t, os.WriteFile(f.key, key, 0o600))
	require.NoError(t, os.WriteFile(f.cert, cert, 0o600))
}

// tlsStandIn is a stand-in that wants certificates of clients. It trusts, and is signed by, one authority.
type tlsStandIn struct {
	*standIn
	url   string
	mu    sync.Mutex
	names []string // of the clients that connected
}

func newTLSStandIn(t testing.TB, a *authority) *tlsStandIn {
	t.Helper()
	s := &tlsStandIn{standIn: &standIn{backend: sealertest.New(t)}}
	cert, key := a.sign(t, "secrets-svc")
	pair, err := tls.X509KeyPair(cert, key)
	require.NoError(t, err)
	trusted := x509.NewCertPool()
	trusted.AddCert(a.certificate)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.url = "https://" + listener.Addr().String()
	s.serveOn(t, tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
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

func TestItKeepsTheContractOverMutualTLS(t *testing.T) {
	a := newAuthority(t)
	sealertest.Run(t, func(t *testing.T) sealer.Sealer {
		f := newFiles(t)
		f.write(t, "aikeysd", a, a)
		s := newTLSStandIn(t, a)
		return s.client(t, s.over(f))
	})
}

func TestServiceOfAnotherAuthorityIsNotTalkedTo(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	f := newFiles(t)
	f.write(t, "aikeysd", a, other)
	s := newTLSStandIn(t, a)
	_, err := s.client(t, s.over(f)).Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorContains(t, err, "certificate")
	require.Zero(t, s.requests.Load())
}

func TestClientOfAnotherAuthorityIsUnavailable(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	f := newFiles(t)
	f.write(t, "aikeysd", other, a)
	s := newTLSStandIn(t, a)
	_, err := s.client(t, s.over(f)).Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.Zero(t, s.requests.Load())
}

func TestRenewedFilesAreUsedForNewConnections(t *testing.T) {
	a := newAuthority(t)
	f := newFiles(t)
	f.write(t, "before", a, a)
	s := newTLSStandIn(t, a)
	var log bytes.Buffer // written to by the calls alone, which come one by one
	client := s.client(t, s.over(f), func(cfg *remote.Config) { cfg.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	mustSeal(t, client)
	require.Equal(t, []string{"before"}, s.connected())

	// Halves of a renewal change nothing.
	require.NoError(t, os.WriteFile(f.cert, []byte("half a certificate"), 0o600))
	require.Eventually(t, func() bool {
		require.NoError(t, client.Close()) // the connection that was kept
		mustSeal(t, client)
		return strings.Contains(log.String(), "the old ones go on being used")
	}, 5*time.Second, 50*time.Millisecond)
	require.NotContains(t, s.connected(), "after")

	f.write(t, "after", a, a)
	require.Eventually(t, func() bool {
		require.NoError(t, client.Close()) // the connection that was kept
		mustSeal(t, client)
		names := s.connected()
		return names[len(names)-1] == "after"
	}, 5*time.Second, 50*time.Millisecond)
}
