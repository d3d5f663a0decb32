package remote_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
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

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ours, other := tlsfilestest.NewAuthority(t), tlsfilestest.NewAuthority(t)
	named := func(name string) func(*x509.Certificate) { // for name and 127.0.0.1, for clients and servers
		return func(c *x509.Certificate) {
			c.Subject.CommonName, c.IPAddresses = name, []net.IP{net.IPv4(127, 0, 0, 1)}
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}
	}
	s := &fakeService{backend: sealertest.New(t)}
	own := ours.Issue(t, t.TempDir(), named("secrets-svc"))
	pair, err := tlsfiles.ReadPair(own.CertFile, own.KeyFile)
	require.NoError(t, err)
	caFile := ours.Write(t, filepath.Join(t.TempDir(), "ca.crt"))
	trusted, err := tlsfiles.ReadPool(caFile)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.serveOn(t, tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{*pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
	}))
	url := "https://" + listener.Addr().String()
	connect := func(signer, trusted *tlsfilestest.Authority) *remote.Sealer {
		own := signer.Issue(t, t.TempDir(), named("aikeysd"))
		return s.client(t, func(cfg *remote.Config) {
			*cfg = remote.Config{URL: url, CertFile: own.CertFile, KeyFile: own.KeyFile, CAFile: trusted.Write(t, filepath.Join(t.TempDir(), "ca.crt"))}
		})
	}
	_, err = connect(ours, other).Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, sealer.ErrUnavailable, "the server is of another authority")
	require.ErrorContains(t, err, "certificate")
	_, err = connect(other, ours).Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, sealer.ErrUnavailable, "the client is of another authority")
	require.Zero(t, s.requests.Load())

	client := connect(ours, ours)
	for name, run := range operations(client, sealertest.MustSeal(t, client).Bytes) {
		require.NoError(t, run(t.Context()), name)
	}

	// Renewed files are read, half a renewal is not used.
	f, next := ours.Issue(t, t.TempDir(), named("before")), ours.Issue(t, t.TempDir(), named("after"))
	var log bytes.Buffer // written by the calls, which follow one another
	client = s.client(t, func(cfg *remote.Config) {
		*cfg = remote.Config{URL: url, CertFile: f.CertFile, KeyFile: f.KeyFile, CAFile: caFile,
			Log: slog.New(slog.NewTextHandler(&log, nil))}
	})
	connectedAs := func() (name string) {
		require.NoError(t, client.Close()) // so that the next call makes a connection
		s.answer(func(_ http.ResponseWriter, r *http.Request) bool {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
			return false
		})
		sealertest.MustSeal(t, client)
		return name
	}
	require.Equal(t, "before", connectedAs())

	certificate, err := os.ReadFile(next.CertFile)
	require.NoError(t, err)
	key, err := os.ReadFile(next.KeyFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f.CertFile, certificate, 0o600)) // half a renewal
	filereloadtest.ReplaceAfterFailure(t, f.KeyFile, key, func() bool {
		require.Equal(t, "before", connectedAs())
		return strings.Contains(log.String(), "failed to find any PEM data in key input")
	})
	require.Eventually(t, func() bool { return connectedAs() == "after" }, 5*time.Second, 10*time.Millisecond)
}
