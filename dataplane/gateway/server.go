package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

// The limits of every server here. There is no limit on the duration of a request or an answer: streams last.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// unreadTimeout is how long net/http may wait for the rest of a body that the answer did not wait for.
	unreadTimeout  = 2 * time.Second
	maxHeaderBytes = 64 << 10
	defaultDrain   = 30 * time.Second
)

// Server answers HTTP on one listener. Listener and Handler are required.
type Server struct {
	// Listener is closed when the server ends.
	Listener net.Listener
	Handler  http.Handler
	// TLS makes the server speak HTTPS only, HTTP/2 included; nil is plain HTTP.
	TLS *tls.Config
	// Drain is how long requests may continue after Serve's context is done, upgraded connections among them, before they
	// are cut; 30 seconds if zero. Run does not use it.
	Drain time.Duration
	// Log gets net/http's complaints, by their kind; nil is slog.Default.
	Log *slog.Logger
}

// Serve answers requests until ctx is done, and returns when the requests in flight have ended. The error says that the
// listener failed or that requests had to be cut.
func (s *Server) Serve(ctx context.Context) error {
	cutCtx, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	cancelled := context.AfterFunc(ctx, func() {
		time.AfterFunc(cmp.Or(s.Drain, defaultDrain), func() { cut(context.DeadlineExceeded) })
	})
	defer cancelled()
	return s.Run(ctx, cutCtx)
}

// Run is the server as a lifecycle.Part.
func (s *Server) Run(stop, cut context.Context) error {
	server := lifecycle.NewServer(lifecycle.ServerConfig{
		Listener: s.Listener, TLS: s.TLS, Log: cmp.Or(s.Log, slog.Default()),
		HTTP: &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer boundUnreadBody(w, r)
				s.Handler.ServeHTTP(w, r)
			}),
			ReadHeaderTimeout:            readHeaderTimeout,
			IdleTimeout:                  idleTimeout,
			MaxHeaderBytes:               maxHeaderBytes,
			DisableGeneralOptionsHandler: true,
		},
	})
	return server.Run(stop, cut)
}

// boundUnreadBody bounds the time that a body takes which the handler has not read to its end. Before net/http answers,
// closes the connection or takes the next request from it, it reads the rest, and would wait for a stranger forever. If the
// body was read, net/http sets a new deadline.
func boundUnreadBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadTimeout)) // fails if the connection is gone
	}
}
