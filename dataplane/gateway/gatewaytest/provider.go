// Package gatewaytest starts a fake provider for tests of gateways: StartProvider serves a fakeprovider.Handler on a
// loopback socket, records every request, and streams as slowly as the test wants.
//
//	provider := gatewaytest.StartProvider(t, gatewaytest.Accepting("sk-provider"))
//	… send requests through a gateway whose upstream is provider.URL …
//	provider.RequireNeverSaw(t, callersOwnKey)
//
// Only tests may import it. It imports fakeprovider and nothing else of ours.
package gatewaytest

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway/fakeprovider"
)

// Provider is a running fake provider. It is safe for concurrent use.
type Provider struct {
	// URL is its address without a path. A base URL may add the version of the imitated provider, such as /v1.
	URL string

	handler *fakeprovider.Handler
	server  *httptest.Server
	stop    context.CancelFunc

	mu       sync.Mutex
	keep     bool // whether requests are recorded
	requests []*Request
	changed  chan struct{} // closed and replaced whenever requests change
}

// Option is a setting of StartProvider.
type Option func(*config)

type config struct {
	options fakeprovider.Options
	release <-chan struct{}
	tls     bool
	forget  bool
}

// Accepting makes the provider accept these secrets from the start.
func Accepting(secrets ...string) Option {
	return func(c *config) { c.options.Secrets = append(c.options.Secrets, secrets...) }
}

// Answering sets the pieces of text that make up each answer; a streamed answer sends each as a separate event.
func Answering(pieces ...string) Option {
	return func(c *config) { c.options.Pieces = pieces }
}

// ReleasedBy holds back each piece of a streamed answer until a value is received from the channel. The events before the
// first piece are sent at once. A closed channel holds back nothing.
func ReleasedBy(release <-chan struct{}) Option {
	return func(c *config) { c.release = release }
}

// WithTLS serves HTTPS and HTTP/2 with a certificate for 127.0.0.1, which Provider.Certificate returns.
func WithTLS() Option {
	return func(c *config) { c.tls = true }
}

// WithoutRecords records no requests, for tests that send very many and watch the memory.
func WithoutRecords() Option {
	return func(c *config) { c.forget = true }
}

// StartProvider starts a provider that ends with the test, cutting its streams if necessary.
func StartProvider(t testing.TB, opts ...Option) *Provider {
	t.Helper()
	var c config
	for _, opt := range opts {
		opt(&c)
	}
	ctx, stop := context.WithCancel(context.Background()) // t.Context() ends before the clean-ups
	if c.release != nil {
		c.options.Pace = paceOf(ctx, c.release)
	}
	p := &Provider{
		handler: fakeprovider.New(c.options), stop: stop, keep: !c.forget, changed: make(chan struct{}),
	}
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients may hang up
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

// paceOf returns a pace that waits for a release before each piece, until the client hangs up or the provider closes.
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

// Close ends the provider and cuts its streams; its port refuses connections from then on. The end of the test does the
// same, and closing twice is harmless.
func (p *Provider) Close() {
	p.stop()
	p.server.CloseClientConnections()
	p.server.Close()
}

// Accept makes the provider accept the secret from the next request on.
func (p *Provider) Accept(secret string) { p.handler.Accept(secret) }

// Reject makes the provider refuse the secret with a status, 401 or 403, from the next request on.
func (p *Provider) Reject(secret string, status int) { p.handler.Reject(secret, status) }

// Certificate returns the certificate to trust if the provider was started WithTLS, and otherwise nil.
func (p *Provider) Certificate() *x509.Certificate { return p.server.Certificate() }

// awaitTimeout ends the wait of a test that has already failed.
const awaitTimeout = 20 * time.Second

// Request is a request as it arrived.
type Request struct {
	Method, Path, RawQuery, Host, Proto string

	Header http.Header
	// Body is the part of the body that had been read at the time of the call.
	Body []byte
	// At is when the head of the request arrived. The body may come later.
	At time.Time
}

// serve records the request and lets the fake provider answer it.
func (p *Provider) serve(w http.ResponseWriter, r *http.Request) {
	if p.keep {
		entry := &Request{
			Method: r.Method, Path: r.URL.Path, RawQuery: r.URL.RawQuery, Host: r.Host, Proto: r.Proto,
			Header: r.Header.Clone(), At: time.Now(),
		}
		p.record(entry)
		r.Body = &recordedBody{ReadCloser: r.Body, provider: p, entry: entry}
	}
	p.handler.ServeHTTP(w, r)
}

func (p *Provider) record(entry *Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, entry)
	close(p.changed)
	p.changed = make(chan struct{})
}

// recordedBody records what is read of a body.
type recordedBody struct {
	io.ReadCloser

	provider *Provider
	entry    *Request // guarded by the provider's mu
}

func (b *recordedBody) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	b.provider.mu.Lock()
	defer b.provider.mu.Unlock()
	b.entry.Body = append(b.entry.Body, buf[:n]...)
	return n, err
}

// Requests returns the requests that have arrived, in order, including refused ones.
func (p *Provider) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := make([]Request, len(p.requests))
	for i, entry := range p.requests {
		found[i] = *entry
		found[i].Header, found[i].Body = entry.Header.Clone(), slices.Clone(entry.Body)
	}
	return found
}

// Forget drops the requests that have arrived.
func (p *Provider) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

// Await returns the requests once n of them have arrived. Their bodies may be incomplete.
func (p *Provider) Await(t testing.TB, n int) []Request {
	t.Helper()
	deadline := time.After(awaitTimeout)
	for {
		p.mu.Lock()
		arrived, changed := len(p.requests), p.changed
		p.mu.Unlock()
		if arrived >= n {
			return p.Requests()
		}
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, "not within "+awaitTimeout.String()+": requests arrive")
		}
	}
}

// RequireNeverSaw fails the test if a text, such as the caller's own credential, was in the head of any request.
func (p *Provider) RequireNeverSaw(t testing.TB, text string) {
	t.Helper()
	require.NotEmpty(t, text)
	for _, r := range p.Requests() {
		heads := []string{r.Path, r.RawQuery, r.Host}
		for name, values := range r.Header {
			heads = append(append(heads, name), values...)
		}
		for _, head := range heads {
			//nolint:testifylint // NotContains would print the header, and with it a credential.
			require.False(t, strings.Contains(head, text), "%s %s came with what it should not have", r.Method, r.Path)
		}
	}
}
