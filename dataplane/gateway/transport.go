package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// TransportConfig is how a gateway connects to providers. The zero value is what most want.
type TransportConfig struct {
	// DialTimeout bounds connecting; 10 seconds if zero.
	DialTimeout time.Duration
	// TLSHandshakeTimeout bounds the handshake; 10 seconds if zero.
	TLSHandshakeTimeout time.Duration
	// ResponseHeaderTimeout bounds the time from the end of the request to the head of the answer; 10 minutes if
	// zero, as models may think for long before they say a word.
	ResponseHeaderTimeout time.Duration
	// Proxy returns the proxy to go through; nil is none. The environment is not looked at: http.ProxyFromEnvironment
	// does.
	Proxy func(*http.Request) (*url.URL, error)
	// RootCAs are whom to believe; nil is the machine's own.
	RootCAs *x509.CertPool
}

// NewTransport returns a transport that changes nothing on the way and keeps connections for the next request. A
// provider that closes an idle one is seldom met, as ours close first. It does not send a request with a body a
// second time: bodies are streams, which it can't rewind.
func NewTransport(cfg TransportConfig) *http.Transport {
	dialer := &net.Dialer{Timeout: or(cfg.DialTimeout, 10*time.Second), KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                  cfg.Proxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
		TLSHandshakeTimeout:    or(cfg.TLSHandshakeTimeout, 10*time.Second),
		ResponseHeaderTimeout:  or(cfg.ResponseHeaderTimeout, 10*time.Minute),
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        45 * time.Second,
		MaxIdleConns:           0, // bounded by the hosts that there are
		MaxIdleConnsPerHost:    1024,
		MaxResponseHeaderBytes: 1 << 20,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
		HTTP2: &http.HTTP2Config{ // notices connections that died in silence
			SendPingTimeout: 30 * time.Second,
			PingTimeout:     15 * time.Second,
		},
	}
}

func or(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

const bufferSize = 32 << 10

// buffers is the httputil.BufferPool of a gateway.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if buffer, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buffer[:]
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) {
	if len(buffer) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(buffer))
	}
}
