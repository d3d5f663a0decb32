package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// TransportConfig says how a gateway connects to providers. The zero value suits most.
type TransportConfig struct {
	// DialTimeout bounds connecting; 10 seconds if zero.
	DialTimeout time.Duration
	// TLSHandshakeTimeout bounds the handshake; 10 seconds if zero.
	TLSHandshakeTimeout time.Duration
	// ResponseHeaderTimeout bounds the time from the end of the request to the head of the answer; 10 minutes if zero,
	// since models may take long before they send the first word.
	ResponseHeaderTimeout time.Duration
	// Proxy returns the proxy to use; nil is none. Set it to http.ProxyFromEnvironment to use the environment's.
	Proxy func(*http.Request) (*url.URL, error)
	// RootCAs are the trusted authorities; nil is the machine's own.
	RootCAs *x509.CertPool

	// The following are for NewGuardedTransport alone. Allowed lists networks that it connects to besides public
	// addresses. It may connect to them in clear text. Insecure lets it connect to public addresses in clear text, too.
	// Resolver resolves names; nil is the machine's.
	Allowed  []netip.Prefix
	Insecure bool
	Resolver *net.Resolver
}

// NewTransport returns a transport that passes requests and answers unchanged and keeps connections alive. It closes idle
// connections before providers usually do. It never sends a request with a body a second time: bodies are streams, which
// it can't rewind.
func NewTransport(cfg TransportConfig) *http.Transport {
	dialer := &net.Dialer{Timeout: cmp.Or(cfg.DialTimeout, 10*time.Second), KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                  cfg.Proxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
		TLSHandshakeTimeout:    cmp.Or(cfg.TLSHandshakeTimeout, 10*time.Second),
		ResponseHeaderTimeout:  cmp.Or(cfg.ResponseHeaderTimeout, 10*time.Minute),
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        45 * time.Second,
		MaxIdleConns:           0, // the number of hosts is the bound
		MaxIdleConnsPerHost:    1024,
		MaxResponseHeaderBytes: 1 << 20,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
			if res.StatusCode != http.StatusOK {
				return proxyRefusal{res.StatusCode}
			}
			return nil
		},
		HTTP2: &http.HTTP2Config{ // detects dead connections
			SendPingTimeout: 30 * time.Second,
			PingTimeout:     15 * time.Second,
		},
	}
}

// proxyRefusal is the answer of the proxy to a CONNECT that it refuses.
type proxyRefusal struct{ status int }

// Error returns the status.
func (p proxyRefusal) Error() string { return "proxy refused: " + strconv.Itoa(p.status) }

const bufferSize = 32 << 10

// bufferPool implements httputil.BufferPool.
type bufferPool struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *bufferPool) Get() []byte {
	if buffer, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buffer[:]
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *bufferPool) Put(buffer []byte) {
	if len(buffer) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(buffer))
	}
}

// upstreamError is a failure between the gateway and the provider. Its text is one of a fixed set: the network's own
// text may quote the provider's answer, which could be anything.
type upstreamError struct {
	kind  error // errUnreachable, errTimeout or errAddress
	cause string
}

// Error returns the kind and the cause.
func (e *upstreamError) Error() string { return e.kind.Error() + ": " + e.cause }

// Unwrap returns the kind.
func (e *upstreamError) Unwrap() error { return e.kind }

// newUpstreamError classifies an error of the transport.
func newUpstreamError(err error) error {
	if errors.Is(err, errAddress) {
		return &upstreamError{errAddress, "custom provider"}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return &upstreamError{errTimeout, "timeout"}
	}
	return &upstreamError{errUnreachable, transportCause(err)}
}

// transportCause returns what went wrong. If the failure was at the environment's proxy, it says so.
func transportCause(err error) string {
	var refusal proxyRefusal
	var toProxy *net.OpError
	switch {
	case errors.As(err, &refusal):
		return refusal.Error()
	case errors.As(err, &toProxy) && toProxy.Op == "proxyconnect": // as net/http names it
		return "proxy: " + connectionCause(toProxy.Err)
	}
	return connectionCause(err)
}

func connectionCause(err error) string {
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		alert       tls.AlertError
		record      tls.RecordHeaderError
		dial        *net.OpError
	)
	switch {
	case errors.Is(err, errEncoded):
		return "encoding not requested"
	case errors.As(err, &dns):
		return "name not resolved"
	case errors.As(err, &certificate), errors.As(err, &authority):
		return "certificate not trusted"
	case errors.As(err, &alert), errors.As(err, &record):
		return "TLS handshake failed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &dial):
		return "connection failed"
	}
	return "answer not understood"
}

// errAddress says that the operator of the gateway does not let it connect to the address of a custom provider.
var errAddress = errors.New("the address is not allowed")

// neverReached are networks to which no request with a custom provider's base URL goes, whatever the operator allows:
// metadata services, link-local addresses, and addresses that stand for several hosts.
var neverReached = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("192.0.0.192/32"), // Alibaba's, Azure's, Oracle's
	netip.MustParsePrefix("::/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::/32"), // AWS's, Google's
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), netip.MustParsePrefix("fd00:42::42/128"), // Oracle's, Scaleway's
	netip.MustParsePrefix("64:ff9b:1::/48"), // translation prefixes of a site, which only the site can read (RFC 8215)
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
	allowed []netip.Prefix // in addition to public addresses
}

func newGuardOfAddresses(allowed []netip.Prefix) guard {
	return guard{ssrf.New(ssrf.WithAnyPort()), allowed}
}

// check returns errAddress for an address to which a connection may not go. A connection in clear text may go only to
// networks that the operator allows, unless clearAnywhere is set.
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

// guarded sends requests to custom providers. Their base URLs come from people who do not run the network that the
// gateway is in, so the address of each connection is checked after the name has been resolved and before the
// connection begins. No proxy is used.
type guarded struct{ clear, encrypted *http.Transport }

// NewGuardedTransport returns the transport for custom providers. It connects to public addresses over TLS, and to the
// networks in Allowed also in clear text. It follows no redirects.
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
