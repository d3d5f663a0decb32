package dataplane

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// newTransport returns a pool of direct HTTP/1.1 connections to the control plane. Without HTTP/2, a broken connection
// fails only the request that was on it.
func newTransport(timeout time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   timeout,
		ResponseHeaderTimeout: timeout,
		MaxConnsPerHost:       256, // many misses at once wait for a connection
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true,
	}
}

// newClients returns the client for single requests, the client for the stream, and a function that closes the idle
// connections of the first. The stream dials a new connection each time and shares none, so that it never reuses a dead
// one.
func newClients(cfg *Config) (unary, stream *gen.Client, closeIdle func(), err error) {
	base := cfg.HTTPClient
	if base == nil {
		base = &http.Client{
			Transport:     newTransport(cfg.FetchTimeout),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	streaming := *base
	streaming.Timeout = 0
	transport := base.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	if pool, ok := transport.(*http.Transport); ok {
		unshared := pool.Clone()
		unshared.DisableKeepAlives = true
		unshared.DisableCompression = true
		unshared.ResponseHeaderTimeout = 0
		unshared.ForceAttemptHTTP2 = false
		unshared.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		unshared.Protocols = new(http.Protocols)
		unshared.Protocols.SetHTTP1(true)
		streaming.Transport = unshared
	}
	authorize := gen.WithRequestEditorFn(func(_ context.Context, request *http.Request) error {
		if cfg.Token != nil {
			request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(cfg.Token())) // files end in a newline
		}
		// The empty header is not sent. It allows net/http to repeat the request if a kept connection was closed.
		request.Header["X-Idempotency-Key"] = nil
		return nil
	})
	unary, err = gen.NewClient(cfg.ControlPlane, gen.WithHTTPClient(base), authorize)
	if err != nil {
		return nil, nil, nil, err
	}
	stream, err = gen.NewClient(cfg.ControlPlane, gen.WithHTTPClient(&streaming), authorize)
	return unary, stream, base.CloseIdleConnections, err
}
