package lifecycle

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
	"sync"
	"syscall"
)

// ErrAddressTaken says that another program listens on the address.
var ErrAddressTaken = errors.New("another program listens there already")

// Listen binds a TCP address, host:port. Port 0 means any free port. If another program listens there, the error is ErrAddressTaken.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: %w", ErrAddressTaken, err)
	}
	return listener, err
}

// Server serves HTTP or HTTPS on one listener.
type Server struct {
	listener net.Listener
	http     *http.Server
	tls      *tls.Config        // nil is plain HTTP
	cut      context.CancelFunc // ends the contexts of all requests
	upgraded *sync.WaitGroup    // ServerConfig.Upgraded
}

// ServerConfig has what a Server needs. Listener, HTTP and Log are required.
type ServerConfig struct {
	Listener net.Listener
	// Connections bounds the connections to Listener.
	Connections Connections
	// HTTP has the handler and the limits. NewServer sets its BaseContext, ConnState and ErrorLog, and wraps its Handler
	// and ConnContext.
	HTTP *http.Server
	// TLS makes the server speak HTTPS only; nil is plain HTTP.
	TLS *tls.Config
	Log *slog.Logger
	// Upgraded counts the requests that have taken over their connection. net/http does not wait for those; Shutdown
	// does. Nil means that there are none.
	Upgraded *sync.WaitGroup
	// OnHandshakeError is called with net/http's text when a TLS handshake fails: the client's address and the cause. If nil,
	// failed handshakes are only logged for debugging, since every port scan causes some.
	OnHandshakeError func(ctx context.Context, text string)
}

// NewServer returns a server that does not answer yet. Connections wait in the listener.
func NewServer(cfg ServerConfig) *Server {
	requests, cut := context.WithCancel(context.Background())
	pool := newPool(cfg.Listener, cfg.Connections, cfg.Log)
	pool.isPlainHTTP = cfg.TLS == nil
	s := &Server{listener: pool, http: cfg.HTTP, tls: cfg.TLS, cut: cut, upgraded: cfg.Upgraded}
	if s.upgraded == nil {
		s.upgraded = new(sync.WaitGroup)
	}
	s.http.BaseContext = func(net.Listener) context.Context { return requests }
	s.http.Handler = checkConnection(cfg.HTTP.Handler)
	s.http.ConnState = pool.follow
	inner := cfg.HTTP.ConnContext
	s.http.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if inner != nil {
			ctx = inner(ctx, c)
		}
		return context.WithValue(ctx, connectionKey{}, connectionOf(c))
	}
	s.http.ErrorLog = log.New(errorLog{cfg.Log, cfg.OnHandshakeError}, "", 0)
	return s
}

// URL returns where the server answers, such as http://127.0.0.1:8080. For a unix socket it is unix:<path>.
func (s *Server) URL() string {
	address, scheme := s.listener.Addr(), "http"
	if address.Network() == "unix" {
		return "unix:" + address.String()
	}
	if s.tls != nil {
		scheme = "https"
	}
	return scheme + "://" + address.String()
}

// Run is the server as a Part of a program.
func (s *Server) Run(stop, cut context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	select {
	case err := <-served:
		return err
	case <-stop.Done():
	}
	return errors.Join(s.Shutdown(cut), <-served)
}

// Serve answers requests. It returns nil as soon as Shutdown is called, before Shutdown returns.
func (s *Server) Serve() error {
	listener := s.listener
	if s.tls != nil {
		listener = newTLSListener(listener, s.tls, s.http.ReadHeaderTimeout, s.http.ErrorLog)
	}
	err := s.http.Serve(listener)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	s.cut()
	return errors.Join(fmt.Errorf("serve %s: %w", s.URL(), err), s.http.Close())
}

// Shutdown accepts no more connections, and returns when the requests in flight and the upgraded connections have ended. When ctx is
// done, it cuts the rest and returns the cause of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.cut()
	err := s.http.Shutdown(ctx)
	if err == nil {
		err = waitFor(ctx, s.upgraded)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	s.cut()
	return errors.Join(fmt.Errorf("shut down %s: %w", s.URL(), err), s.http.Close())
}

// waitFor returns when group or ctx is done.
func waitFor(ctx context.Context, group *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errorLog receives net/http's own messages. It logs only the kind of a message, since some quote what a client sent or what a handler
// panicked with.
type errorLog struct {
	log              *slog.Logger
	onHandshakeError func(ctx context.Context, text string) // nil logs at debug level
}

// Write takes one message.
func (l errorLog) Write(line []byte) (int, error) {
	ctx := context.Background() // net/http passes none
	handshake, isHandshake := bytes.CutPrefix(line, []byte("http: TLS handshake error from "))
	switch {
	case isHandshake && l.onHandshakeError != nil:
		l.onHandshakeError(ctx, string(handshake))
	case isHandshake:
		l.log.DebugContext(ctx, "TLS handshake failed")
	case bytes.HasPrefix(line, []byte("http: panic serving")):
		l.log.ErrorContext(ctx, "handler panicked")
	case bytes.HasPrefix(line, []byte("http: Accept error")):
		l.log.WarnContext(ctx, "connection not accepted", slog.String("error", string(bytes.TrimSpace(line)))) // the system's text
	default:
		l.log.WarnContext(ctx, "HTTP server complained")
	}
	return len(line), nil
}
