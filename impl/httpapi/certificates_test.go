package httpapi_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/httpapi/httpapitest"
)

// serial returns the serial number of the certificate that a new connection is shown.
func serial(t *testing.T, server *httpapi.Server) int64 {
	t.Helper()
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", hostOf(server))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	secure, ok := conn.(*tls.Conn)
	require.True(t, ok)
	return secure.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestCertificatesAreReadAgainWhenTheyChange(t *testing.T) {
	dir, log := t.TempDir(), &logBuffer{}
	certificate := httpapitest.WriteCertificate(t, dir, 1)
	certificates, err := httpapi.LoadCertificates(certificate.CertFile, certificate.KeyFile, debugLog(log))
	require.NoError(t, err)
	server := startServer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") },
		func(cfg *httpapi.ServerConfig) { cfg.Certificates = certificates })
	require.EqualValues(t, 1, serial(t, server))

	t.Run("a pair that does not match leaves the old one in place", func(t *testing.T) {
		require.NoError(t, os.WriteFile(certificate.KeyFile, []byte("half a key"), 0o600))
		require.Eventually(t, func() bool {
			require.EqualValues(t, 1, serial(t, server))
			return strings.Contains(log.String(), "the old one goes on serving")
		}, 5*time.Second, 50*time.Millisecond)
		require.NotContains(t, log.String(), "half a key")
	})
	t.Run("a new pair serves new connections", func(t *testing.T) {
		httpapitest.WriteCertificate(t, dir, 2)
		require.Eventually(t, func() bool { return serial(t, server) == 2 }, 5*time.Second, 50*time.Millisecond)
		require.Contains(t, log.String(), "TLS certificate renewed")
	})
	t.Run("HTTPS answers ask for HTTPS", func(t *testing.T) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL(), http.NoBody)
		require.NoError(t, err)
		response, err := httpsClient(t, certificate).Do(request)
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		require.Equal(t, "max-age=31536000", response.Header.Get("Strict-Transport-Security"))
	})
	t.Run("TLS 1.1 is refused", func(t *testing.T) {
		old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		_, err := (&tls.Dialer{Config: old}).DialContext(t.Context(), "tcp", hostOf(server))
		require.ErrorContains(t, err, "protocol version")
	})
}

func TestCertificatesThatCantBeUsedAreRefused(t *testing.T) {
	first, second := httpapitest.WriteCertificate(t, t.TempDir(), 1), httpapitest.WriteCertificate(t, t.TempDir(), 2)
	_, err := httpapi.LoadCertificates(first.CertFile, second.KeyFile, nil)
	require.ErrorContains(t, err, "does not match")
	_, err = httpapi.LoadCertificates(first.CertFile, first.KeyFile+".missing", nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}
