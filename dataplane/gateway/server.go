package gateway

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// The limits of every server. There is no limit on the time of a request or an answer, because streams last.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// unreadTimeout is how long net/http may wait for the rest of a body that the handler did not read.
	unreadTimeout  = 2 * time.Second
	maxHeaderBytes = 64 << 10
	defaultDrain   = 30 * time.Second
)

// Server answers HTTP on one listener. Listener and Handler are required.
type Server struct {
	// Listener is closed when the server ends.
	Listener net.Listener
	Handler  http.Handler
	// TLS makes it serve HTTPS alone, HTTP/2 included; nil is plain HTTP.
	TLS *tls.Config
	// Drain is how long requests may go on after the end of the context, upgraded connections among them; 30 seconds if
	// zero. Those that are left then are cut.
	Drain time.Duration
	// Log gets what net/http complains of, by its kind; nil is slog.Default.
	Log *slog.Logger
}

// Serve answers until ctx ends, and returns when the requests in flight are done. Its error says that the listener
// failed, or that requests had to be cut.
func (s *Server) Serve(ctx context.Context) error {
	logger := s.Log
	if logger == nil {
		logger = slog.Default()
	}
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var upgraded sync.WaitGroup // net/http forgets connections once they are upgraded
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header["Upgrade"] != nil {
				upgraded.Add(1)
				defer upgraded.Done()
			}
			defer dropBody(w, r)
			s.Handler.ServeHTTP(w, r)
		}),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		TLSConfig:         s.TLS,
		ErrorLog:          log.New(serverLog{logger}, "", 0),

		DisableGeneralOptionsHandler: true,
	}
	failed := make(chan error, 1)
	go func() {
		if s.TLS != nil {
			failed <- server.ServeTLS(s.Listener, "", "")
			return
		}
		failed <- server.Serve(s.Listener)
	}()
	select {
	case err := <-failed:
		return errors.Join(fmt.Errorf("serve: %w", err), server.Close())
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(requests, cmp.Or(s.Drain, defaultDrain))
	defer cancel()
	err := server.Shutdown(deadline)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err == nil {
		err = waitFor(deadline, &upgraded)
	}
	if err != nil {
		cut()
		return errors.Join(fmt.Errorf("drain: %w", err), server.Close())
	}
	return nil
}

// dropBody bounds the time that goes into a body which the handler has left. Before it answers, and before it closes
// the connection or takes the next request from it, net/http reads on, and would wait for a stranger for ever. Where
// the body was read, net/http sets the deadline anew.
func dropBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadTimeout)) // a connection that is gone needs none
	}
}

// waitFor returns when group is done, or ctx is.
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

// serverLog is where net/http's own messages go. Some quote what a client sent, so only their kind is told.
type serverLog struct{ log *slog.Logger }

// Write takes one message.
func (l serverLog) Write(line []byte) (int, error) {
	ctx := context.Background() // net/http has none to offer
	switch {
	case bytes.HasPrefix(line, []byte("http: TLS handshake error")):
		l.log.DebugContext(ctx, "TLS handshake failed") // every port scan does that
	case bytes.HasPrefix(line, []byte("http: panic serving")):
		l.log.ErrorContext(ctx, "handler panicked")
	case bytes.HasPrefix(line, []byte("http: Accept error")):
		l.log.WarnContext(ctx, "connection not accepted")
	default:
		l.log.WarnContext(ctx, "HTTP server complained")
	}
	return len(line), nil
}
