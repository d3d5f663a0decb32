// Package netaddr answers questions about network addresses: is it this machine, and which client sent a request?
package netaddr

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// IsLoopback reports whether a host, without a port, is localhost or a loopback address. Keys may travel to such hosts without TLS.
func IsLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

// IsLoopbackAddress is IsLoopback for host:port.
func IsLoopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && IsLoopback(host)
}

// Parse reads an IP address, with or without a port. It returns the zero Addr if text is neither.
func Parse(text string) netip.Addr {
	address, err := netip.ParseAddr(text)
	if err != nil {
		withPort, _ := netip.ParseAddrPort(text)
		address = withPort.Addr()
	}
	return address.Unmap().WithZone("")
}

// Client returns the address of the client that sent a request: the peer's or, if the peer is a trusted proxy, the last address in its
// X-Forwarded-For headers that is not a trusted proxy. A peer on a unix socket, which unixsocket.PeerAddr names, is trusted.
func Client(peer string, forwardedFor []string, trusted []netip.Prefix) netip.Addr {
	address := Parse(peer)
	isTrusted := func() bool {
		return strings.HasPrefix(peer, "uid ") && !address.IsValid() ||
			slices.ContainsFunc(trusted, func(proxies netip.Prefix) bool { return proxies.Contains(address) })
	}
	hops := strings.Split(strings.Join(forwardedFor, ","), ",")
	for i := len(hops) - 1; i >= 0 && isTrusted(); i-- {
		hop := Parse(strings.TrimSpace(hops[i]))
		if !hop.IsValid() {
			break
		}
		address = hop
	}
	return address
}

// Host returns the address that limits count as one client: an IPv4 address, or the /64 network of an IPv6 address, which usually
// belongs to one host.
func Host(address netip.Addr) netip.Addr {
	if address.Is6() {
		if network, err := address.Prefix(64); err == nil {
			return network.Addr()
		}
	}
	return address
}
