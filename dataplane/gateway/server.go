package gateway

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

// The limits of every server. There is no limit on the duration of a request or an answer, because streams last.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// unreadTimeout is how long net/http may wait for the rest of a body that the handler did not read.
	unreadTimeout  = 2 * time.Second
	maxHeaderBytes = 64 << 10
)

// NewServer returns a server for a gateway's handler, with limits that do not affect streams. A nil TLS configuration
// means plain HTTP.
func NewServer(listener net.Listener, handler http.Handler, tlsConfig *tls.Config, log *slog.Logger) *lifecycle.Server {
	return lifecycle.NewServer(lifecycle.ServerConfig{
		Listener: listener, TLS: tlsConfig, Log: log,
		HTTP: &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer boundUnreadBody(w, r)
				handler.ServeHTTP(w, r)
			}),
			ReadHeaderTimeout:            readHeaderTimeout,
			IdleTimeout:                  idleTimeout,
			MaxHeaderBytes:               maxHeaderBytes,
			DisableGeneralOptionsHandler: true,
		},
	})
}

// boundUnreadBody bounds the time for a body that the handler has not read to its end. Before net/http answers, closes the
// connection or takes the next request from it, it reads the rest of the body, and would wait for a stranger forever. If
// the body was read, net/http sets a new deadline.
func boundUnreadBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadTimeout)) // fails if the connection is gone
	}
}
