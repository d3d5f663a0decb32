// Package gatewaytest lets tests stand a gateway before a provider that is not the real one: StartProvider serves a
// standin.Handler on a loopback socket, records every request that arrives, and streams as slowly as the test wants.
//
//	provider := gatewaytest.StartProvider(t, gatewaytest.Accepting("sk-provider"))
//	… point a gateway's catalogue at provider.URL and send requests through it …
//	provider.RequireNeverSaw(t, callersOwnKey)
//
// Only tests may import it. It imports the stand-in and nothing else of ours.
package gatewaytest

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/agentrouter/aikeys/dataplane/gateway/fakeprovider"
)

// Provider is a provider's stand-in that runs. Its methods are safe for concurrent use.
type Provider struct {
	// URL is where it listens, without a path. Base URLs may add the version that the provider has in its own: /v1.
	URL string

	handler *fakeprovider.Handler
	server  *httptest.Server
	stop    context.CancelFunc

	mu       sync.Mutex
	keep     bool
	active   int
	requests []*Request
	changed  chan struct{} // closed and replaced whenever active or requests change
}

// Option is a setting of StartProvider.
type Option func(*config)

type config struct {
	standin fakeprovider.Options
	release <-chan struct{}
	tls     bool
	forget  bool
}

// Accepting makes the provider accept these secrets from the start.
func Accepting(secrets ...string) Option {
	return func(c *config) { c.standin.Secrets = append(c.standin.Secrets, secrets...) }
}

// Answering sets the pieces of text that each answer is made of; a streamed one sends them apart.
func Answering(pieces ...string) Option {
	return func(c *config) { c.standin.Pieces = pieces }
}

// ReleasedBy holds back each piece of a streamed answer until something is received from the channel. What precedes
// the first piece goes out at once. A closed channel lets everything pass.
func ReleasedBy(release <-chan struct{}) Option {
	return func(c *config) { c.release = release }
}

// WithTLS serves HTTPS, HTTP/2 included, with a certificate for 127.0.0.1 that Provider.Certificate returns.
func WithTLS() Option {
	return func(c *config) { c.tls = true }
}

// WithoutRecords keeps nothing of the requests: for tests that send very many and watch the memory.
func WithoutRecords() Option {
	return func(c *config) { c.forget = true }
}

// StartProvider starts a provider that ends with the test, in the middle of its streams if need be.
func StartProvider(t testing.TB, opts ...Option) *Provider {
	t.Helper()
	var c config
	for _, opt := range opts {
		opt(&c)
	}
	ctx, stop := context.WithCancel(context.Background()) // the test's own ends before its clean-ups
	if c.release != nil {
		c.standin.Pace = paceOf(ctx, c.release)
	}
	p := &Provider{
		handler: fakeprovider.New(c.standin), stop: stop, keep: !c.forget, changed: make(chan struct{}),
	}
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that hang up are the test's business
	if c.tls {
		p.server.EnableHTTP2 = true
		p.server.StartTLS()
	} else {
		p.server.Start()
	}
	p.URL = p.server.URL
	t.Cleanup(p.Close)
	return p
}

var errStopped = errors.New("the provider was closed")

// paceOf waits for a release before each piece, unless the client goes or the provider is closed.
func paceOf(stopped context.Context, release <-chan struct{}) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-stopped.Done():
			return errStopped
		}
	}
}

// Close ends the provider and the streams that it has not finished: from then on its port refuses connections.
// StartProvider sees to it as well; closing twice is fine.
func (p *Provider) Close() {
	p.stop()
	p.server.CloseClientConnections()
	p.server.Close()
}

// Accept makes the provider take the secret from the next request on.
func (p *Provider) Accept(secret string) { p.handler.Accept(secret) }

// Reject makes the provider answer the secret with a status, 401 or 403, from the next request on.
func (p *Provider) Reject(secret string, status int) { p.handler.Reject(secret, status) }

// Certificate returns the certificate to trust when the provider was started WithTLS, else nil.
func (p *Provider) Certificate() *x509.Certificate { return p.server.Certificate() }
