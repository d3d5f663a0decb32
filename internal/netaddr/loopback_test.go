package netaddr_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/netaddr"
)

func TestOnlyThisMachineIsLoopback(t *testing.T) {
	for host, is := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "localhost.example": false, "127.0.0.1.example": false,
		"LOCALHOST.": false, "127.1": false,
	} {
		require.Equal(t, is, netaddr.Is(host), host)
	}
}
