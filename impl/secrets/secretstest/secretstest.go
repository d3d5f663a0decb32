// Package secretstest runs the secrets service for tests: the real handler on a real unix socket, over a given sealer, and
// a client of sealer/remote. With AIKEYS_TEST_SEALER=remote in the environment, the tests of the server seal through it instead
// of in their own process.
//
// For tests only. It may import what impl may.
package secretstest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/unixsocket"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// Variable is the environment variable that selects how the server's tests seal: "remote", or "local", which is the default.
const Variable = "AIKEYS_TEST_SEALER"

// IsRemote reports whether the server's tests seal through a secrets service.
func IsRemote(t testing.TB) bool {
	t.Helper()
	switch how := os.Getenv(Variable); how {
	case "", "local":
		return false
	case "remote":
		return true
	default:
		require.Fail(t, Variable+" must be local or remote", how)
		return false
	}
}

// Backend returns a Sealer with a new KEK, in this process or behind a service as Variable selects.
func Backend(t testing.TB) sealer.Sealer {
	t.Helper()
	backend := sealertest.New(t)
	if !IsRemote(t) {
		return backend
	}
	return Client(t, Serve(t, backend))
}

// Client returns a Sealer that asks the service at a socket.
func Client(t testing.TB, socket string) *remote.Sealer {
	t.Helper()
	client, err := remote.New(remote.Config{Socket: socket})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// shutdownTimeout bounds how long the end of a test waits for requests in flight.
const shutdownTimeout = 10 * time.Second

// Serve runs a service over a backend until the test ends, and returns the path of its socket. The user of this process
// may do everything there.
func Serve(t testing.TB, backend sealer.Sealer) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "secrets") //nolint:usetesting // a socket's path has at most 108 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	socket = filepath.Join(dir, "api.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	server := httpapi.NewServer(httpapi.ServerConfig{
		Listener: unixsocket.WithPeers(listener), Handler: newHandler(t, backend, log), ConnContext: secrets.ConnContext, Log: log,
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		require.NoError(t, server.Shutdown(ctx))
		require.NoError(t, <-served)
	})
	return socket
}

func newHandler(t testing.TB, backend sealer.Sealer, log *slog.Logger) http.Handler {
	t.Helper()
	clients, err := secrets.ParseClients(fmt.Appendf(nil,
		`{"clients": [{"name": "tests", "uids": [%d], "namespace": "tests", "may": ["seal", "open", "rewrap", "status"]}]}`, os.Geteuid()))
	require.NoError(t, err)
	metrics := prometheus.NewRegistry()
	observer, err := httpapi.NewObserver("secrets", log, metrics, nil)
	require.NoError(t, err)
	handler, err := secrets.NewHandler(secrets.Config{
		Clients: func(context.Context) *secrets.ClientList { return clients },
		Sealer:  func(context.Context, string) (sealer.Sealer, error) { return backend, nil },
		Audit:   secrets.NewAudit(io.Discard), Metrics: metrics,
		MaxConcurrent: 64, MaxQueue: 1024, API: httpapi.Config{Observer: observer},
	})
	require.NoError(t, err)
	return handler
}
