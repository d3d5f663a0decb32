package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// The limits of every server of ours. A request is small and answered at once, so they are short; writeTimeout leaves room
// for a revoke that waits for its receipt.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = time.Minute
	maxHeaderBytes    = 16 << 10
)

// strictTransport is for a year, in seconds (RFC 6797, section 6.1.1).
const strictTransport = "max-age=31536000"

// ErrAddressTaken says that another program listens on the address.
var ErrAddressTaken = errors.New("another program listens there already")

// Listen binds a TCP address, host:port. Port 0 is any that is free. Its error wraps ErrAddressTaken where that is why.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: %w", ErrAddressTaken, err)
	}
	return listener, err
}

// ServerConfig is what a Server needs. Listener, Handler and Log are required.
type ServerConfig struct {
	Listener net.Listener
	Handler  http.Handler
	// TLS makes the server speak HTTPS only; nil is plain HTTP.
	TLS *tls.Config
	// TellHandshakes logs TLS handshakes that fail, at info and a few a minute: for a service whose clients are few and known.
	// Elsewhere every port scan would be told.
	TellHandshakes bool
	// ConnContext may add to the context of a connection's requests; nil adds nothing.
	ConnContext func(ctx context.Context, c net.Conn) context.Context
	Log         *slog.Logger
}

// Server answers HTTP on one listener, which it owns, until it is shut down.
type Server struct {
	server   *http.Server
	listener net.Listener
	scheme   string
}

// NewServer returns a Server that does not answer yet; connections wait in its listener.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{listener: netutil.LimitListener(cfg.Listener, maxConnections()), scheme: "http", server: &http.Server{
		Handler:           cfg.Handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       cfg.ConnContext,
	}}
	told := serverLog{log: cfg.Log}
	if cfg.TellHandshakes {
		told.handshakes = newHandshakes(cfg.Log)
	}
	s.server.ErrorLog = log.New(told, "", 0)
	if cfg.TLS != nil {
		s.scheme = "https"
		s.server.Handler = withStrictTransport(cfg.Handler)
		s.server.TLSConfig = cfg.TLS
	}
	return s
}

// maxConnections leaves a quarter of the process's files to each of the three listeners and a quarter to the rest, so that
// connections to one take no other's, nor the database's. More than the listener may have wait in the kernel.
func maxConnections() int {
	const most, listenersAndRest = 10_000, 4
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return most
	}
	return max(1, int(min(files.Cur/listenersAndRest, most)))
}

// URL is where the server answers, with the port that it got: http://127.0.0.1:8080. On a unix socket it is unix:<path>.
func (s *Server) URL() string {
	if address := s.listener.Addr(); address.Network() == "unix" {
		return "unix:" + address.String()
	}
	return s.scheme + "://" + s.listener.Addr().String()
}

// Serve answers until Shutdown, and then returns nil at once: Shutdown is what to wait for.
func (s *Server) Serve() error {
	err := s.serve()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", s.URL(), err)
}

func (s *Server) serve() error {
	if s.server.TLSConfig != nil {
		return s.server.ServeTLS(s.listener, "", "") // the certificate comes from GetCertificate
	}
	return s.server.Serve(s.listener)
}

// Shutdown takes no more connections and returns when the requests in flight are answered. Those that are not when ctx
// ends are cut, and its error is ctx's.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.server.Shutdown(ctx)
	if err != nil {
		return errors.Join(err, s.server.Close())
	}
	return nil
}

func withStrictTransport(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", strictTransport)
		next.ServeHTTP(w, r)
	})
}

// serverLog is where net/http's own messages go. Some of them quote what a client sent, or what a handler panicked with,
// so only their kind is told.
type serverLog struct {
	log        *slog.Logger
	handshakes *handshakes // nil tells of none but for debugging
}

// Write takes one message.
func (l serverLog) Write(line []byte) (int, error) {
	ctx := context.Background() // net/http has none to offer
	failed, isHandshake := bytes.CutPrefix(line, []byte("http: TLS handshake error from "))
	switch {
	case isHandshake && l.handshakes != nil:
		l.handshakes.failed(ctx, string(failed))
	case isHandshake:
		l.log.DebugContext(ctx, "TLS handshake failed") // every port scan does that
	case bytes.HasPrefix(line, []byte("http: panic serving")):
		l.log.ErrorContext(ctx, "handler panicked")
	case bytes.HasPrefix(line, []byte("http: Accept error")):
		l.log.WarnContext(ctx, "connection not accepted", slog.String("error", string(bytes.TrimSpace(line)))) // the system's text
	default:
		l.log.WarnContext(ctx, "HTTP server complained")
	}
	return len(line), nil
}
