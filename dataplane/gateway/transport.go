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
	"strconv"
	"sync"
	"syscall"
	"time"
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

	// The following are for NewGuardedTransport alone. Allowed are the networks to which it connects beside public addresses, and also
	// in clear text. Insecure lets it connect to public addresses in clear text, too. Resolver resolves names; nil is the machine's.
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

// upstreamError is a failure between the gateway and the provider. Its text is one of a fixed set: the network's own text
// may quote the provider's answer, and so anything.
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

// transportCause returns what went wrong, and names the proxy of the environment if it was there.
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
		return "encoding not asked for"
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
