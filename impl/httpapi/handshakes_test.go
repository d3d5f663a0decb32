package httpapi_test

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

// Refused handshakes are logged at a limited rate, without anything that the client sent.
func TestRefusedHandshakesAreLogged(t *testing.T) {
	const canary, attempts = "CANARY-7f3a", 40
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	log := &logBuffer{}
	pair, err := tls.LoadX509KeyPair(certificate.CertFile, certificate.KeyFile)
	require.NoError(t, err)
	server := startServer(t, nil, func(cfg *httpapi.ServerConfig) {
		cfg.Log, cfg.LogHandshakes = debugLog(log), true
		cfg.TLS = &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert,
			NextProtos: []string{"http/1.1"},
		}
	})
	dial := func(settings *tls.Config) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		settings.RootCAs = certificate.Pool(t)
		conn, err := (&tls.Dialer{Config: settings}).DialContext(ctx, "tcp", hostOf(server))
		if err == nil { // TLS 1.3: the client learns of it when it reads
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
	}
	told := func(text string) func() bool { return func() bool { return strings.Contains(log.String(), text) } }
	dial(&tls.Config{MinVersion: tls.VersionTLS13})
	require.Eventually(t, told("the client showed no certificate"), 5*time.Second, time.Millisecond)
	dial(&tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12})
	require.Eventually(t, told("no version of TLS in common"), 5*time.Second, time.Millisecond)
	dial(&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{canary}})
	require.Eventually(t, told("what was not understood"), 5*time.Second, time.Millisecond)
	plain, err := net.Dial("tcp", hostOf(server))
	require.NoError(t, err)
	_, err = plain.Write([]byte("GET /" + canary + " HTTP/1.1\r\n\r\n"))
	require.NoError(t, err)
	require.Eventually(t, told("the client spoke no TLS"), 5*time.Second, time.Millisecond)
	require.NoError(t, plain.Close())
	for range attempts {
		dial(&tls.Config{MinVersion: tls.VersionTLS13})
	}
	require.Equal(t, 5, strings.Count(log.String(), `"TLS handshake refused"`))
	require.Contains(t, log.String(), `level=INFO msg="TLS handshake refused" source_ip=127.0.0.1`)
	require.NotContains(t, log.String(), canary)
}
