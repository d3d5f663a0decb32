package gatewaytest

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long Await waits; it ends a test that has already failed.
const patience = 20 * time.Second

// Request is a request as it arrived.
type Request struct {
	Method, Path, RawQuery, Host, Proto string

	Header http.Header
	// Body is what had been read of the body by the time of the call.
	Body []byte
	// At is when the head of the request had arrived. Its body may come later.
	At time.Time
}

// serve records the request and lets the stand-in answer it.
func (p *Provider) serve(w http.ResponseWriter, r *http.Request) {
	entry := p.arrive(r)
	defer p.leave()
	if entry != nil {
		r.Body = &tee{ReadCloser: r.Body, provider: p, entry: entry}
	}
	p.handler.ServeHTTP(w, r)
}

func (p *Provider) arrive(r *http.Request) *Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active++
	p.notify()
	if !p.keep {
		return nil
	}
	entry := &Request{
		Method: r.Method, Path: r.URL.Path, RawQuery: r.URL.RawQuery, Host: r.Host, Proto: r.Proto,
		Header: r.Header.Clone(), At: time.Now(),
	}
	p.requests = append(p.requests, entry)
	return entry
}

func (p *Provider) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	p.notify()
}

func (p *Provider) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// tee records what is read of a body.
type tee struct {
	io.ReadCloser

	provider *Provider
	entry    *Request // guarded by the provider's mutex
}

func (b *tee) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	b.provider.mu.Lock()
	defer b.provider.mu.Unlock()
	b.entry.Body = append(b.entry.Body, buf[:n]...)
	return n, err
}

// Requests returns the requests that have arrived, refused ones included, in their order.
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

// Await returns the requests once n of them have arrived, their bodies perhaps not.
func (p *Provider) Await(t testing.TB, n int) []Request {
	t.Helper()
	p.await(t, "requests arrive", func() bool { return len(p.requests) >= n })
	return p.Requests()
}

// AwaitIdle returns once no request is being answered: every client has got its answer or has hung up, and the provider
// knows it.
func (p *Provider) AwaitIdle(t testing.TB) {
	t.Helper()
	p.await(t, "the provider is idle", func() bool { return p.active == 0 })
}

func (p *Provider) await(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		ok, changed := done(), p.changed
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, "not within "+patience.String()+": "+what)
		}
	}
}

// RequireNeverSaw fails the test if the text, say a caller's own credential, was in the head of any request.
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
