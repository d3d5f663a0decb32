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

// newTransport returns a pool that goes straight to the control plane, over HTTP/1.1: a broken connection fails then
// what was on that one alone.
func newTransport(timeout time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   timeout,
		ResponseHeaderTimeout: timeout,
		MaxConnsPerHost:       256, // many misses at once wait their turn
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true,
	}
}

// newClients returns the client for single requests and the one for the stream, and what closes the first's idle
// connections. The stream's dials a connection each time and never shares it, so that a dead one is not used again.
func newClients(cfg *Config) (unary, stream *gen.Client, idle func(), err error) {
	base := cfg.HTTPClient
	if base == nil {
		base = &http.Client{
			Transport:     newTransport(cfg.FetchTimeout),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	follow := *base
	follow.Timeout = 0
	transport := base.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	if pool, ok := transport.(*http.Transport); ok {
		alone := pool.Clone()
		alone.DisableKeepAlives = true
		alone.DisableCompression = true
		alone.ResponseHeaderTimeout = 0
		alone.ForceAttemptHTTP2 = false
		alone.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		alone.Protocols = new(http.Protocols)
		alone.Protocols.SetHTTP1(true)
		follow.Transport = alone
	}
	authorize := gen.WithRequestEditorFn(func(_ context.Context, request *http.Request) error {
		if cfg.Token != nil {
			request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(cfg.Token())) // files end in a new line
		}
		// Not sent; it lets net/http send the request again when a kept connection turns out to be closed.
		request.Header["X-Idempotency-Key"] = nil
		return nil
	})
	unary, err = gen.NewClient(cfg.ControlPlane, gen.WithHTTPClient(base), authorize)
	if err != nil {
		return nil, nil, nil, err
	}
	stream, err = gen.NewClient(cfg.ControlPlane, gen.WithHTTPClient(&follow), authorize)
	return unary, stream, base.CloseIdleConnections, err
}
