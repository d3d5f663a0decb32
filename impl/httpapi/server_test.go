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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

func TestListenersShareConnectionsFairly(t *testing.T) {
	// The test runs itself as a child process with a low limit on open files. The child runs two servers until its
	// standard input ends.
	const envFewFiles = "HTTPAPI_TEST_FEW_FILES"
	if os.Getenv(envFewFiles) != "" {
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64}))
		answer := func(http.ResponseWriter, *http.Request) {}
		fmt.Println(startServer(t, answer, nil).URL(), startServer(t, answer, nil).URL())
		_, err := io.Copy(io.Discard, os.Stdin)
		require.NoError(t, err)
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), self, "-test.run", "^"+t.Name()+"$")
	child.Env = append(os.Environ(), envFewFiles+"=1")
	child.Stderr = os.Stderr
	stay, err := child.StdinPipe()
	require.NoError(t, err)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	defer func() {
		require.NoError(t, stay.Close())
		require.NoError(t, child.Wait())
	}()
	var public, ops string
	_, err = fmt.Fscanln(out, &public, &ops)
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, out) }()

	var idle []net.Conn
	defer func() {
		for _, conn := range idle {
			_ = conn.Close()
		}
	}()
	for range 100 {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(public, "http://"), 5*time.Second)
		require.NoError(t, err)
		idle = append(idle, conn)
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(url string) error {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	time.Sleep(100 * time.Millisecond) // lets the first server accept as many connections as it can
	for range 5 {
		require.NoError(t, ask(ops))
	}
	for _, conn := range slices.Backward(idle) {
		require.NoError(t, conn.Close())
	}
	idle = nil
	require.Eventually(t, func() bool { return ask(public) == nil }, 10*time.Second, 10*time.Millisecond, "those who leave make room")
}

// openLog returns a log at level debug, and a function that returns what it holds so far.
func openLog(t *testing.T) (log *slog.Logger, read func() string) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = file.Close() })
	return slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug})), func() string {
		text, err := os.ReadFile(file.Name())
		require.NoError(t, err)
		return string(text)
	}
}

// startServer serves handler until the test ends; config may be nil.
func startServer(t *testing.T, handler http.HandlerFunc, configure func(*httpapi.ServerConfig)) *lifecycle.Server {
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
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", hostOf(server))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

func TestShutdownFinishesRequestsInFlight(t *testing.T) {
	const size = 16 << 20 // more than the sockets' buffers hold, so that the server waits for the reader
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

func TestTLSServer(t *testing.T) {
	const canary = "CANARY-7f3a"
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	own, err := tlsfiles.OpenPair("TLS certificate", certificate.CertFile, certificate.KeyFile, nil)
	require.NoError(t, err)
	log, logged := openLog(t)
	server := startServer(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic(canary)
		}
	}, func(cfg *httpapi.ServerConfig) { cfg.Log, cfg.TLS = log, tlsfiles.ServerConfig(own) })
	settings := &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: settings, DisableKeepAlives: true}, Timeout: 10 * time.Second}

	response, err := client.Get(server.URL())
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	t.Run("refuses old versions", func(t *testing.T) {
		old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		_, err = (&tls.Dialer{Config: old}).DialContext(t.Context(), "tcp", hostOf(server))
		require.ErrorContains(t, err, "protocol version")
	})
	t.Run("logs a failed handshake without what the client sent", func(t *testing.T) {
		other := settings.Clone()
		other.NextProtos = []string{canary}
		_, err := (&tls.Dialer{Config: other}).DialContext(t.Context(), "tcp", hostOf(server))
		require.Error(t, err, "no protocol in common")
		require.Eventually(t, func() bool { return strings.Contains(logged(), "TLS handshake failed") }, 5*time.Second, 5*time.Millisecond)
	})
	t.Run("logs a panic without its value", func(t *testing.T) {
		_, err := client.Get(server.URL() + "/panic") //nolint:bodyclose // it fails
		require.Error(t, err)
		require.Eventually(t, func() bool { return strings.Contains(logged(), "handler panicked") }, 5*time.Second, 5*time.Millisecond)
	})
	require.NotContains(t, logged(), canary)
}

// Refused handshakes are logged at a limited rate, without anything that the client sent.
func TestRefusedHandshakesAreLogged(t *testing.T) {
	const canary, attempts = "CANARY-7f3a", 40
	certificate := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	log, logged := openLog(t)
	pair, err := tls.LoadX509KeyPair(certificate.CertFile, certificate.KeyFile)
	require.NoError(t, err)
	server := startServer(t, nil, func(cfg *httpapi.ServerConfig) {
		cfg.Log, cfg.LogHandshakes = log, true
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
	told := func(text string) func() bool { return func() bool { return strings.Contains(logged(), text) } }
	dial(&tls.Config{MinVersion: tls.VersionTLS13})
	require.Eventually(t, told("the client showed no certificate"), 5*time.Second, time.Millisecond)
	dial(&tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12})
	require.Eventually(t, told("no version of TLS in common"), 5*time.Second, time.Millisecond)
	dial(&tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{canary}})
	require.Eventually(t, told("something that is not understood"), 5*time.Second, time.Millisecond)
	plain, err := net.Dial("tcp", hostOf(server))
	require.NoError(t, err)
	_, err = plain.Write([]byte("GET /" + canary + " HTTP/1.1\r\n\r\n"))
	require.NoError(t, err)
	require.Eventually(t, told("the client spoke no TLS"), 5*time.Second, time.Millisecond)
	require.NoError(t, plain.Close())
	for range attempts {
		dial(&tls.Config{MinVersion: tls.VersionTLS13})
	}
	require.Equal(t, 5, strings.Count(logged(), `"TLS handshake refused"`))
	require.Contains(t, logged(), `level=INFO msg="TLS handshake refused" source_ip=127.0.0.1`)
	require.NotContains(t, logged(), canary)
}
