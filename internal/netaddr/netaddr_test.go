package netaddr_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/netaddr"
)

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "localhost.example": false, "127.0.0.1.example": false,
		"LOCALHOST.": false, "127.1": false,
	} {
		require.Equal(t, want, netaddr.IsLoopback(host), host)
	}
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "[::1]:80": true, "localhost:80": true,
		":80": false, "0.0.0.0:80": false, "[::]:80": false, "192.0.2.1:80": false, "127.0.0.1": false,
	} {
		require.Equal(t, want, netaddr.IsLoopbackAddress(address), address)
	}
}

func TestClient(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for name, tc := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"a peer":                         {"192.0.2.1:99", nil, "192.0.2.1"},
		"a peer that is not trusted":     {"192.0.2.1:99", []string{"192.0.2.7"}, "192.0.2.1"},
		"behind a proxy":                 {"10.0.0.1:99", []string{"192.0.2.7"}, "192.0.2.7"},
		"behind two proxies":             {"10.0.0.1:99", []string{"198.51.100.1, 192.0.2.7, 10.0.0.2"}, "192.0.2.7"},
		"in two headers":                 {"10.0.0.1:99", []string{"192.0.2.7", "10.0.0.2"}, "192.0.2.7"},
		"hops with ports":                {"10.0.0.1:99", []string{"192.0.2.7:4711, 10.0.0.2:80"}, "192.0.2.7"},
		"the proxy itself":               {"10.0.0.1:99", nil, "10.0.0.1"},
		"an invalid hop ends the search": {"10.0.0.1:99", []string{"192.0.2.7, unknown, 10.0.0.2"}, "10.0.0.2"},
		"a proxy on a unix socket":       {"uid 33", []string{"192.0.2.9, 192.0.2.7, 10.0.0.2"}, "192.0.2.7"},
		"IPv4 in IPv6, with a zone":      {"[::ffff:10.0.0.1%eth0]:99", []string{"[2001:db8::7]:1"}, "2001:db8::7"},
	} {
		require.Equal(t, tc.want, netaddr.Client(tc.peer, tc.forwarded, trusted).String(), name)
	}
	require.False(t, netaddr.Client("@", nil, trusted).IsValid())
}

func TestHost(t *testing.T) {
	require.Equal(t, "2001:db8::", netaddr.Host(netip.MustParseAddr("2001:db8::7")).String())
	require.Equal(t, "192.0.2.7", netaddr.Host(netip.MustParseAddr("192.0.2.7")).String())
	require.Equal(t, "invalid IP", netaddr.Host(netip.Addr{}).String())
}
