package main

import (
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCallersConnectionsLeaveFilesForTheRest(t *testing.T) {
	require.Equal(t, 341, maxConnections(1024))
	require.Equal(t, 1, maxConnections(1))
	require.Equal(t, 1_000_000, maxConnections(1<<63), "without a limit of the system's")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	require.NotSame(t, listener, bounded(listener))
}

func TestGuessersAreHeldBackUnlessTheOperatorSaysOtherwise(t *testing.T) {
	w := newWorld(t)
	for limit, last := range map[string]int{"2": http.StatusTooManyRequests, "0": http.StatusUnauthorized} {
		s := startGateway(t, environOf(t, w.control.URL()), "--failed-auth-limit", limit).awaitReady()
		for range 2 {
			require.Equal(t, http.StatusUnauthorized, send(t, http.MethodGet, s.url+"/openai/models", "ak_other").status)
		}
		require.Equal(t, last, send(t, http.MethodGet, s.url+"/openai/models", "ak_other").status)
		require.Equal(t, http.StatusOK, send(t, http.MethodGet, s.url+"/openai/models", callerToken).status)
	}
}
