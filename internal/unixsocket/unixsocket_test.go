package unixsocket_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/unixsocket"
)

// socketPath returns a path that is short enough for a socket.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "us-") //nolint:usetesting // t.TempDir may be too long
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s.sock")
}

func TestConnectionsKnowTheirUser(t *testing.T) {
	path, own := socketPath(t), uint32(os.Geteuid())
	listener, err := unixsocket.Listen(t.Context(), path, unixsocket.Access{Users: []uint32{own + 1}})
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	client, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	accepted, err := listener.Accept()
	require.NoError(t, err)
	defer func() { _ = accepted.Close() }()
	uid, ok := unixsocket.UID(accepted)
	require.True(t, ok)
	require.Equal(t, own, uid)
	_, ok = unixsocket.UID(client)
	require.False(t, ok)
	_, err = unixsocket.Listen(t.Context(), path, unixsocket.Access{})
	require.ErrorIs(t, err, lifecycle.ErrAddressTaken)
}

func TestOtherUsersAreDisconnected(t *testing.T) {
	inner, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(t), Net: "unix"})
	require.NoError(t, err)
	listener := unixsocket.WithPeers(inner, uint32(os.Geteuid())+1)
	done := make(chan error, 1)
	go func() {
		_, err := listener.Accept()
		done <- err
	}()
	client, err := net.Dial("unix", inner.Addr().String())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	_, err = client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, listener.Close())
	require.ErrorIs(t, <-done, net.ErrClosed, "no connection was accepted")
}

func TestSocketModes(t *testing.T) {
	for name, c := range map[string]struct {
		access unixsocket.Access
		mode   os.FileMode
	}{
		"own user":    {unixsocket.Access{}, 0o600},
		"own group":   {unixsocket.Access{Group: strconv.Itoa(os.Getegid())}, 0o660},
		"named users": {unixsocket.Access{Users: []uint32{1}}, 0o666},
	} {
		path := socketPath(t)
		listener, err := unixsocket.Listen(t.Context(), path, c.access)
		require.NoError(t, err)
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, c.mode, info.Mode().Perm(), name)
		require.NoError(t, listener.Close())
	}
}
