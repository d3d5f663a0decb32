package lifecycle

import (
	"context"
	"log/slog"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
