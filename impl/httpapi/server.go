package httpapi

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

// The limits of every server here. Requests are small and answered at once, so the limits are short; writeTimeout leaves room
// for a revocation that waits for its receipt.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 60 * time.Second
	maxHeaderBytes    = 16 << 10

	// IdleTimeout is how long a connection without requests stays open.
	IdleTimeout = time.Minute
)

// A server may use one quarter of the files that the process may open: a program has up to three listeners, and the
// rest is for the database. Connections to one listener can't use up the files of the others.
const (
	fileShare      = 4
	maxConnections = 10_000
)

// ServerConfig has what a server needs. Listener, Handler and Log are required.
type ServerConfig struct {
	Listener net.Listener
	Handler  http.Handler
	// TLS makes the server speak HTTPS only; nil is plain HTTP.
	TLS *tls.Config
	// TrustedProxies are lifecycle.Connections's TrustedProxies.
	TrustedProxies []netip.Prefix
	// LogHandshakes logs failed TLS handshakes at level info, a few a minute. It is for services with few, known
	// clients; other services would log every port scan.
	LogHandshakes bool
	// ConnContext may add to the context of a connection's requests; nil adds nothing.
	ConnContext func(ctx context.Context, c net.Conn) context.Context
	Log         *slog.Logger
}

// NewServer returns a server with the limits of this package.
func NewServer(cfg ServerConfig) *lifecycle.Server {
	config := lifecycle.ServerConfig{
		Listener: cfg.Listener, TLS: cfg.TLS, Log: cfg.Log,
		Connections: lifecycle.Connections{
			Max: lifecycle.FileShare(fileShare, maxConnections), TrustedProxies: cfg.TrustedProxies,
		},
		HTTP: &http.Server{
			Handler:           cfg.Handler,
			ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       IdleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ConnContext:       cfg.ConnContext,
		},
	}
	if cfg.LogHandshakes {
		config.OnHandshakeError = newHandshakeLog(cfg.Log).add
	}
	return lifecycle.NewServer(config)
}
