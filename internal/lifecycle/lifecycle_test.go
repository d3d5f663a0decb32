package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestProgram(t *testing.T) {
	var mu sync.Mutex
	var notes []string // what the program does, in order
	note := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		notes = append(notes, text)
	}
	// part takes some time to drain after stop, unless it is cut.
	part := func(name string, drain time.Duration) Part {
		return func(stop, cut context.Context) error {
			<-stop.Done()
			select {
			case <-time.After(drain):
				note(name + " ended")
				return nil
			case <-cut.Done():
				note(name + " cut")
				return context.Cause(cut)
			}
		}
	}
	program := func(stages ...[]Part) *Program {
		notes = nil
		return &Program{
			Stages: stages, Ops: part("ops", 0), DrainTimeout: 20 * time.Second, OnDrain: func() { note("draining") },
			Log: slog.New(slog.DiscardHandler), Closers: Closers{
				func() error { note("database closed"); return nil },
				func() error { note("traces closed"); return nil },
			},
		}
	}
	t.Run("stages stop in order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			p := program(
				[]Part{part("slow", 8*time.Second), part("fast", 0)},
				[]Part{Task(func(ctx context.Context) error { <-ctx.Done(); note("feed ended"); return nil })},
			)
			var log bytes.Buffer
			p.Log = slog.New(slog.NewTextHandler(&log, nil))
			require.NoError(t, p.Run(ctx))
			require.Equal(t, []string{
				"draining", "fast ended", "slow ended", "feed ended", "ops ended", "traces closed", "database closed",
			}, notes)
			require.Contains(t, log.String(), `"stopping: requests in flight are answered first" timeout=20s`)
			require.Contains(t, log.String(), "msg=stopped")
		})
	})
	t.Run("the drain timeout is shared", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			began := time.Now()
			p := program([]Part{part("api", 15*time.Second)}, []Part{part("feed", time.Hour)},
				[]Part{part("last", time.Hour)})
			p.Ops = part("ops", time.Hour)
			err := p.Run(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "requests in flight were cut after 20s")
			require.Equal(t, []string{"draining", "api ended", "feed cut", "last cut", "ops cut", "traces closed", "database closed"}, notes)
			require.Equal(t, 22*time.Second, time.Since(began), "the parts after the time-out get one second each")
		})
	})
	t.Run("a failed part stops it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			broken := errors.New("broken")
			p := program(
				[]Part{Task(func(context.Context) error { return nil }), part("api", time.Second)},
				[]Part{Task(func(context.Context) error { time.Sleep(time.Minute); return broken })},
			)
			p.Closers.Add(func() error { return errors.New("not closed") })
			err := p.Run(t.Context())
			require.ErrorIs(t, err, broken)
			require.ErrorContains(t, err, "not closed")
			require.NotContains(t, err.Error(), "cut")
			require.Equal(t, []string{"draining", "api ended", "ops ended", "traces closed", "database closed"}, notes)
		})
	})
}

func TestOpsHandler(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "lifecycle_test_total", Help: "A counter."}))
	ready := true
	ops := NewOpsHandler(registry, func(context.Context) (bool, any) {
		return ready, map[string]bool{"ready": ready}
	})
	get := func(path string) (status int, body string) {
		w := httptest.NewRecorder()
		ops.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w.Code, w.Body.String()
	}
	status, body := get("/readyz")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"ready":true}`, body)
	ready = false
	status, body = get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.JSONEq(t, `{"ready":false}`, body)
	status, body = get("/healthz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", body)
	_, body = get("/metrics")
	require.Contains(t, body, "lifecycle_test_total 0")
}

func TestListen(t *testing.T) {
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	_, err = Listen(t.Context(), listener.Addr().String())
	require.ErrorIs(t, err, ErrAddressTaken)
	_, err = Listen(t.Context(), "192.0.2.1:1")
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrAddressTaken)
}

func TestConnectionLimit(t *testing.T) {
	require.Equal(t, 341, connectionLimit(1024, 3, 1_000_000))
	require.Equal(t, 1, connectionLimit(2, 3, 1_000_000), "at least one")
	require.Equal(t, 1_000_000, connectionLimit(math.MaxUint64, 3, 1_000_000), "unlimited")
}

func TestServerURL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	require.NoError(t, err)
	server := NewServer(ServerConfig{Listener: listener, HTTP: &http.Server{ReadHeaderTimeout: time.Second}, Log: slog.New(slog.DiscardHandler)})
	require.Equal(t, "unix:"+path, server.URL())
	stop, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, server.Run(stop, t.Context()))

	listener, err = Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	server = NewServer(ServerConfig{Listener: listener, HTTP: &http.Server{ReadHeaderTimeout: time.Second}, Log: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, server.Run(t.Context(), t.Context()), "serve http://127.0.0.1:")
}

// fakeListener accepts the connections that a test sends to it. Each connection has its own remote address.
type fakeListener struct {
	arrive chan net.Conn
	closed chan struct{}
}

type from struct {
	net.Conn
	address net.Addr
}

func (c from) RemoteAddr() net.Addr { return c.address }

func (l fakeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.arrive:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l fakeListener) Close() error   { close(l.closed); return nil }
func (l fakeListener) Addr() net.Addr { return &net.TCPAddr{} }

// connect returns the client's end of a connection from an address.
func (l fakeListener) connect(address string) net.Conn {
	client, server := net.Pipe()
	l.arrive <- from{server, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))}
	return client
}

// serveConnections serves until the test ends, and returns the pool of its connections. A request with the header
// Authorization is authenticated. An answer to /stream does not end.
func serveConnections(t *testing.T, listener net.Listener, secure *tls.Config, cfg Connections, log io.Writer) *pool {
	t.Helper()
	server := NewServer(ServerConfig{
		Listener: listener, TLS: secure, Connections: cfg, Log: slog.New(slog.NewTextHandler(log, nil)),
		HTTP: &http.Server{ReadHeaderTimeout: time.Minute, IdleTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				MarkAuthenticated(r.Context())
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/stream" {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
		})},
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = server.Shutdown(ctx)
		require.NoError(t, <-served)
	})
	return server.listener.(*pool) //nolint:forcetypeassert // it is
}

const (
	asStranger = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	asOwner    = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\n\r\n"
	asStream   = "GET /stream HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\n\r\n"
)

// statusOf sends a request and returns the status of the answer, or 0 if the connection has been closed.
func statusOf(conn net.Conn, request string) int {
	if _, err := io.WriteString(conn, request); err != nil {
		return 0
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // the body of a stream does not end
	if err != nil {
		return 0
	}
	return response.StatusCode
}

// isClosed waits until the other end has closed a connection.
func isClosed(conn net.Conn) bool {
	_, err := io.Copy(io.Discard, conn)
	return !errors.Is(err, context.DeadlineExceeded)
}

func TestStrangersMakeRoomForNewcomers(t *testing.T) {
	const places = 8
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	var log bytes.Buffer
	connections := serveConnections(t, listener, nil, Connections{Max: places}, &log)
	open := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		return conn
	}
	owner, plane := open(), open()
	require.Equal(t, 200, statusOf(owner, asOwner))
	require.Equal(t, 200, statusOf(plane, asStream))
	var attackers []net.Conn
	for i := range 10 * places {
		conn := open()
		attackers = append(attackers, conn)
		switch i % 3 {
		case 0: // says nothing
		case 1:
			_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
			require.NoError(t, err)
		case 2:
			require.Equal(t, 200, statusOf(conn, asStranger))
		}
	}
	for range 2 * places {
		newcomer := open()
		require.Equal(t, 200, statusOf(newcomer, asOwner), "a newcomer gets in")
		require.NoError(t, newcomer.Close())
	}
	require.Equal(t, 200, statusOf(owner, asOwner), "who was in stays in")
	require.True(t, isClosed(attackers[0]), "the stranger that was quiet for longest has gone")

	require.Eventually(t, func() bool { // the client gets its answer shortly before its connection rests
		connections.mu.Lock()
		defer connections.mu.Unlock()
		return connections.open-connections.strangers.Len()-connections.resting.Len() == 1
	}, 20*time.Second, time.Millisecond, "only the stream is busy")

	// If all places are authenticated, a resting connection is closed first. If there is none, the newcomer is closed.
	for range places - 2 {
		require.Equal(t, 200, statusOf(open(), asStream))
	}
	require.Equal(t, 200, statusOf(open(), asStream))
	require.Zero(t, statusOf(owner, asOwner))
	require.True(t, isClosed(open()))
	require.NoError(t, plane.SetDeadline(time.Now().Add(-time.Second)))
	_, err = plane.Read(make([]byte, 1))
	require.ErrorContains(t, err, "timeout", "the stream is still open")
	require.Equal(t, 1, strings.Count(log.String(), "connections were closed for newcomers"), "one line a minute")
}

func TestStrangersOfAnAddressHaveABound(t *testing.T) {
	const places = 16
	for name, tc := range map[string]struct {
		address func(i int) string
		bounded bool
	}{
		"an IPv4 address":    {func(int) string { return "192.0.2.7:99" }, true},
		"an IPv6 network":    {func(i int) string { return fmt.Sprintf("[2001:db8::%x]:99", i) }, true},
		"a trusted proxy":    {func(int) string { return "10.0.0.1:99" }, false},
		"this machine":       {func(int) string { return "127.0.0.1:99" }, false},
		"many IPv4 networks": {func(i int) string { return fmt.Sprintf("198.51.100.%d:99", i) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := fakeListener{make(chan net.Conn), make(chan struct{})}
				pool := newPool(listener, Connections{Max: places, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, slog.New(slog.DiscardHandler))
				for i := range places {
					go listener.connect(tc.address(i))
					_, err := pool.Accept()
					require.NoError(t, err)
				}
				want := places
				if tc.bounded {
					want = places / hostShare
				}
				require.Equal(t, want, pool.open)
				require.Equal(t, want, pool.strangers.Len())
				for pool.shedFirst(&pool.strangers) {
				}
				require.Zero(t, pool.open)
				require.Empty(t, pool.ofHosts, "nothing is kept of those who left")
			})
		})
	}
}

func TestConnectionsEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := fakeListener{make(chan net.Conn), make(chan struct{})}
		serveConnections(t, listener, nil, Connections{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, io.Discard)
		for name, tc := range map[string]struct {
			address, request string
			lasts            time.Duration
		}{
			"a stranger":      {"192.0.2.7:99", asStranger, strangerIdle},
			"an owner":        {"192.0.2.7:99", asOwner, time.Minute},
			"a trusted proxy": {"10.0.0.1:99", asStranger, time.Minute},
		} {
			conn := listener.connect(tc.address)
			for range 2 {
				require.Equal(t, 200, statusOf(conn, tc.request), name)
				time.Sleep(strangerIdle - time.Second)
			}
			require.Equal(t, 200, statusOf(conn, tc.request), name)
			began := time.Now()
			require.True(t, isClosed(conn))
			require.Equal(t, tc.lasts, time.Since(began), name)
		}

		conn, began := listener.connect("192.0.2.7:99"), time.Now()
		for time.Since(began) < connectionLife {
			require.Equal(t, 200, statusOf(conn, asOwner))
			time.Sleep(30 * time.Second)
		}
		time.Sleep(time.Second)
		require.Equal(t, 200, statusOf(conn, asOwner), "the last one")
		ended := time.Now()
		require.True(t, isClosed(conn))
		require.Less(t, time.Since(ended), time.Second, "the answer ended the connection")
	})
}

func TestPanicInAHandshakeEndsItsConnection(t *testing.T) {
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	serveConnections(t, listener, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { panic("wrong") }}, Connections{}, io.Discard)
	for range 2 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		require.ErrorIs(t, tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()), io.EOF)
		require.NoError(t, conn.Close())
	}
}

func TestAmbiguousRequestsAreRefused(t *testing.T) {
	certified := httptest.NewTLSServer(http.NotFoundHandler())
	defer certified.Close()
	serve := func(secure *tls.Config) string {
		listener, err := Listen(t.Context(), "127.0.0.1:0")
		require.NoError(t, err)
		serveConnections(t, listener, secure, Connections{}, io.Discard)
		return listener.Addr().String()
	}
	plain, secure := serve(nil), serve(&tls.Config{Certificates: certified.TLS.Certificates})
	dials := []func() (net.Conn, error){
		func() (net.Conn, error) { return net.Dial("tcp", plain) },
		func() (net.Conn, error) {
			return tls.Dial("tcp", secure, certified.Client().Transport.(*http.Transport).TLSClientConfig) //nolint:forcetypeassert // it is
		},
	}
	stalled, err := net.Dial("tcp", secure) // its handshake does not delay others
	require.NoError(t, err)
	defer func() { _ = stalled.Close() }()
	inPlainText, err := net.Dial("tcp", secure)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, statusOf(inPlainText, asStranger))
	require.NoError(t, inPlainText.Close())
	const both = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"
	long := strings.Repeat("x", 3*maxFramingLine)
	for name, tc := range map[string]struct{ request, statuses string }{
		"both":                         {both, "400"},
		"both, in another letter case": {strings.ReplaceAll(both, "Content-Length: 4", "content-length:   3"), "400"},
		"both, and lines that end by a line feed": {strings.ReplaceAll(both, "\r\n\r\n0", "\n\n0"), "400"},
		"in HTTP/1.0":              {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		"a folded header":          {"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n Transfer-Encoding: chunked\r\n\r\n", "400"},
		"after a request":          {asStranger + both, "400"},
		"after a body":             {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + both, "400"},
		"after chunks and trailer": {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\na\r\n\r\n0\r\nX-A: b\r\n\r\n" + both, "400"},
		"after long lines":         {"GET /" + long + " HTTP/1.1\r\nHost: a\r\nX-" + long + ": " + long + "\r\n\r\n" + both, "400"},
		"chunks":                   {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + asStranger, "200 200"},
		"in a body only":           {fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(both), both) + asStranger, "200 200"},
		"in a chunk only":          {fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(both), both) + asStranger, "200 200"},
	} {
		for i, step := range []int{1, 7, 1 << 20, 1, 7, 1 << 20} {
			conn, err := dials[i/3]()
			require.NoError(t, err)
			require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			go func() {
				for rest := tc.request; rest != ""; rest = rest[min(step, len(rest)):] {
					_, _ = io.WriteString(conn, rest[:min(step, len(rest))])
				}
			}()
			reader, last := bufio.NewReader(conn), ""
			for range strings.Fields(tc.statuses) {
				last = ""
				for last == "" || last == "200" && tc.statuses == "400" { // earlier requests may have been answered
					response, err := http.ReadResponse(reader, nil)
					require.NoError(t, err, name)
					_, _ = io.Copy(io.Discard, response.Body)
					require.NoError(t, response.Body.Close())
					last = fmt.Sprint(response.StatusCode)
					require.Equal(t, last == "400", response.Close, name)
				}
			}
			require.Equal(t, strings.Fields(tc.statuses)[0], last, name)
			_ = conn.Close() // TLS reports that the server has closed it already
		}
	}
}
