// Package netaddr knows which hosts are this very machine: the ones that keys may travel to without TLS. It imports
// nothing of ours.
package netaddr

import "net/netip"

// Is tells whether a host, a name or an address without a port, is this machine by its name or loopback address.
func Is(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}
