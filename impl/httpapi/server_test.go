package httpapi_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

// logBuffer is a log that a test reads while a server writes it.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func debugLog(to io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// startServer serves handler until the test ends; config may be nil.
func startServer(t *testing.T, handler http.HandlerFunc, configure func(*httpapi.ServerConfig)) *lifecycle.Server {
	t.Helper()
	listener, err := lifecycle.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	cfg := httpapi.ServerConfig{Listener: listener, Handler: handler, Log: slog.New(slog.DiscardHandler)}
	if configure != nil {
		configure(&cfg)
	}
	server := httpapi.NewServer(cfg)
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx) // the test may have done so
		require.NoError(t, <-served, "a server that was shut down has not failed")
	})
	return server
}

func hostOf(server *lifecycle.Server) string {
	_, host, _ := strings.Cut(server.URL(), "://")
	return host
}

func dial(t *testing.T, server *lifecycle.Server) net.Conn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", hostOf(server))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

func TestShutdownFinishesRequestsInFlight(t *testing.T) {
	const size = 16 << 20 // more than the sockets' buffers hold, so that the reader's pace counts
	handling := make(chan struct{}, 2)
	server := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		handling <- struct{}{}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s%s", body, strings.Repeat("x", size))
	}, nil)
	conn := dial(t, server)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
	<-handling

	down := make(chan error, 1)
	go func() { down <- server.Shutdown(context.Background()) }()
	require.Eventually(t, func() bool {
		another, err := net.DialTimeout("tcp", hostOf(server), time.Second)
		if err == nil {
			_ = another.Close()
		}
		return err != nil
	}, 5*time.Second, 5*time.Millisecond, "a server that stops takes no new connections")

	fmt.Fprint(conn, "world")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	require.Empty(t, down, "Shutdown waits for a slow reader")
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Len(t, body, len("helloworld")+size)
	require.NoError(t, <-down)
}

func TestShutdownGivesUpWhenItsContextEnds(t *testing.T) {
	handling := make(chan struct{})
	server := startServer(t, func(_ http.ResponseWriter, r *http.Request) {
		close(handling)
		<-r.Context().Done()
	}, nil)
	conn := dial(t, server)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-handling
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, server.Shutdown(ctx), context.DeadlineExceeded)
	_, err := io.ReadAll(conn)
	require.NoError(t, err, "the connection is closed, which ends the handler")
}

func TestAddressInUse(t *testing.T) {
	server := startServer(t, func(http.ResponseWriter, *http.Request) {}, nil)
	_, err := lifecycle.Listen(t.Context(), hostOf(server))
	require.ErrorIs(t, err, lifecycle.ErrAddressTaken)
	_, err = lifecycle.Listen(t.Context(), "192.0.2.1:1")
	require.Error(t, err)
	require.NotErrorIs(t, err, lifecycle.ErrAddressTaken)
}

func TestHeaderSizeLimit(t *testing.T) {
	server := startServer(t, func(http.ResponseWriter, *http.Request) {}, nil)
	conn := dial(t, server)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 24<<10))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, response.StatusCode)
}

func TestNetHTTPLogsOmitWhatClientsSent(t *testing.T) {
	const canary = "CANARY-7f3a"
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	log := &logBuffer{}
	server := startServer(t, func(http.ResponseWriter, *http.Request) { panic(canary) }, func(cfg *httpapi.ServerConfig) {
		cfg.Log, cfg.TLS = debugLog(log), tlsConfig(t, certificate)
	})

	t.Run("handshake", func(t *testing.T) {
		_, err := (&tls.Dialer{Config: &tls.Config{
			RootCAs: certificate.Pool(t), NextProtos: []string{canary}, MinVersion: tls.VersionTLS12,
		}}).DialContext(t.Context(), "tcp", hostOf(server))
		require.Error(t, err, "no protocol in common")
		require.Eventually(t, func() bool { return strings.Contains(log.String(), "TLS handshake failed") }, 5*time.Second, 5*time.Millisecond)
	})
	t.Run("panic", func(t *testing.T) {
		client := httpsClient(t, certificate)
		_, err := client.Get(server.URL()) //nolint:bodyclose // it fails
		require.Error(t, err)
		require.Eventually(t, func() bool { return strings.Contains(log.String(), "handler panicked") }, 5*time.Second, 5*time.Millisecond)
	})
	require.NotContains(t, log.String(), canary)
}

func tlsConfig(t *testing.T, certificate tlsfilestest.Certificate) *tls.Config {
	t.Helper()
	own, err := tlsfiles.OpenPair("TLS certificate", certificate.CertFile, certificate.KeyFile, nil)
	require.NoError(t, err)
	return tlsfiles.ServerConfig(own)
}

func TestTLSServer(t *testing.T) {
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	server := startServer(t, func(http.ResponseWriter, *http.Request) {}, func(cfg *httpapi.ServerConfig) { cfg.TLS = tlsConfig(t, certificate) })
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL(), http.NoBody)
	require.NoError(t, err)
	response, err := httpsClient(t, certificate).Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)

	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	_, err = (&tls.Dialer{Config: old}).DialContext(t.Context(), "tcp", hostOf(server))
	require.ErrorContains(t, err, "protocol version")
}

func httpsClient(t *testing.T, certificate tlsfilestest.Certificate) *http.Client {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}
