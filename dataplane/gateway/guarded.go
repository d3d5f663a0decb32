package gateway

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// errAddress says that the operator of the gateway does not let it connect to the address of a custom provider.
var errAddress = errors.New("the address is not allowed")

// neverReached are networks to which no request with a custom provider's base URL goes, whatever the operator allows: a network's
// metadata services, links, and what stands for several hosts.
var neverReached = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("192.0.0.192/32"), // Alibaba's, Azure's, Oracle's
	netip.MustParsePrefix("::/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::/32"), // AWS's, Google's
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), netip.MustParsePrefix("fd00:42::42/128"), // Oracle's, Scaleway's
	netip.MustParsePrefix("64:ff9b:1::/48"), // a site's own translation, which only the site can read (RFC 8215)
}

// embedding are networks of IPv6 in which an address stands for the IPv4 address at an offset.
var embedding = []struct {
	network netip.Prefix
	offset  int
}{
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, {netip.MustParsePrefix("::/96"), 12}, // translated, and compatible
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, {netip.MustParsePrefix("2002::/16"), 2},
}

// guard decides where connections to custom providers go.
type guard struct {
	public  *ssrf.Guardian
	allowed []netip.Prefix // beside the public addresses
}

func newGuardOfAddresses(allowed []netip.Prefix) guard {
	return guard{ssrf.New(ssrf.WithAnyPort()), allowed}
}

// check returns errAddress for an address to which a connection may not go. In clear text, it may go only where the operator said.
func (g guard) check(address netip.Addr, inClear, clearAnywhere bool) error {
	address = address.WithZone("").Unmap()
	if slices.ContainsFunc(neverReached, func(p netip.Prefix) bool { return p.Contains(address) }) {
		return errAddress
	}
	if inner := embedded(address); inner.IsValid() {
		if err := g.check(inner, inClear, clearAnywhere); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(g.allowed, func(p netip.Prefix) bool { return p.Contains(address) }) {
		return nil
	}
	if inClear && !clearAnywhere || g.public.SafeAddr(address) != nil {
		return errAddress
	}
	return nil
}

// embedded returns the IPv4 address that an IPv6 address stands for, or an invalid one. ::1 stands for itself.
func embedded(address netip.Addr) netip.Addr {
	if !address.Is6() || address == netip.IPv6Loopback() {
		return netip.Addr{}
	}
	bytes := address.As16()
	for _, e := range embedding {
		if e.network.Contains(address) {
			return netip.AddrFrom4([4]byte(bytes[e.offset : e.offset+4]))
		}
	}
	return netip.Addr{}
}

// guarded sends requests to custom providers. Their base URLs come from people who do not run the network that the gateway is in, so each
// connection is checked when the name is resolved and the connection begins, whatever the name resolved to before. No proxy comes between.
type guarded struct{ clear, encrypted *http.Transport }

// NewGuardedTransport returns the transport for custom providers. It connects to public addresses over TLS, and to those of the
// configuration's Allowed also in clear text. It follows no redirects.
func NewGuardedTransport(cfg TransportConfig) http.RoundTripper {
	cfg.Proxy = nil
	addresses := newGuardOfAddresses(cfg.Allowed)
	guardedDialer := func(inClear bool) *net.Dialer {
		return &net.Dialer{
			Timeout: cmp.Or(cfg.DialTimeout, 10*time.Second), KeepAlive: 15 * time.Second, Resolver: cfg.Resolver,
			Control: func(network, address string, _ syscall.RawConn) error {
				target, err := netip.ParseAddrPort(address)
				if err != nil || network != "tcp4" && network != "tcp6" {
					return errAddress
				}
				return addresses.check(target.Addr(), inClear, cfg.Insecure)
			},
		}
	}
	g := &guarded{clear: NewTransport(cfg), encrypted: NewTransport(cfg)}
	g.clear.DialContext, g.encrypted.DialContext = guardedDialer(true).DialContext, guardedDialer(false).DialContext
	return g
}

// RoundTrip implements http.RoundTripper.
func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" {
		return g.clear.RoundTrip(r)
	}
	return g.encrypted.RoundTrip(r)
}

// CloseIdleConnections closes the connections that no request uses.
func (g *guarded) CloseIdleConnections() {
	g.clear.CloseIdleConnections()
	g.encrypted.CloseIdleConnections()
}
