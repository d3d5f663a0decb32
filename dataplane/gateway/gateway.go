package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/dataplane"
)

// Config is what a gateway needs. Resolver is required; everything else has a default.
type Config struct {
	Resolver Resolver
	// Log takes one line for each request; nil is slog.Default. Lines hold no path, query, header or body.
	Log *slog.Logger
	// Metrics is where the metrics are registered; nil is nowhere.
	Metrics prometheus.Registerer
	// Transport sends requests to providers; nil is NewTransport's default.
	Transport http.RoundTripper
	// Upstreams take the place of providers' base URLs, by slug: private deployments and stand-ins. https goes
	// anywhere, http only to this machine. Whoever sets them decides where providers' keys are sent.
	Upstreams map[string]*url.URL
	// MaxConcurrent bounds the requests that are proxied at once; 0 is unbounded. Those over it get 503.
	MaxConcurrent int
	// ForwardAuthSecret returns what callers of NewForwardAuth's handler have to know; nil asks for nothing. It is
	// called for each request, so that the secret can change; while it returns "", all are refused.
	ForwardAuthSecret func() string
	// FailedAuthLimit is how many refusals a minute each client address may provoke with a credential, a project or a
	// provider that is wrong; 0 is without limit. Those over it get 429. Each face counts for itself.
	FailedAuthLimit float64
	// TrustedProxies are the networks whose X-Forwarded-For is believed; empty believes none.
	TrustedProxies []netip.Prefix
}

// Gateway is the reverse proxy. It is an http.Handler, and safe for concurrent use.
type Gateway struct {
	resolver  Resolver
	log       *slog.Logger
	metrics   *Metrics
	upstreams map[string]*url.URL
	guard     *guard
	slots     chan struct{} // nil is unbounded
	transport http.RoundTripper
	proxy     httputil.ReverseProxy
}

// New returns the reverse proxy: /{provider}/… goes to the provider with the key that serves the caller.
//
// Bodies and streams pass as they are, in both directions at once, and nothing is tried twice. What the provider
// answers is the answer, with Agentrouter-Key-Id and Agentrouter-Reason added and cookies taken out. /problems explains
// what the gateway answers by itself.
func New(cfg Config) (*Gateway, error) {
	if cfg.Resolver == nil {
		return nil, errors.New("gateway: no resolver")
	}
	metrics, err := NewMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		resolver: cfg.Resolver, log: cfg.Log, metrics: metrics,
		upstreams: maps.Clone(cfg.Upstreams), transport: cfg.Transport, guard: newGuard(cfg),
	}
	for provider, upstream := range g.upstreams {
		if upstream == nil || checkDestination(upstream) != nil {
			return nil, fmt.Errorf("gateway: upstream of %s: %w", provider, errDestination)
		}
	}
	if g.log == nil {
		g.log = slog.Default()
	}
	if g.transport == nil {
		g.transport = NewTransport(TransportConfig{})
	}
	if cfg.MaxConcurrent > 0 {
		g.slots = make(chan struct{}, cfg.MaxConcurrent)
	}
	g.proxy = httputil.ReverseProxy{
		Rewrite:        g.rewrite,
		Transport:      sender{g.transport},
		FlushInterval:  -1,
		BufferPool:     new(buffers),
		ModifyResponse: g.answered,
		ErrorHandler:   g.failed,
		ErrorLog:       log.New(io.Discard, "", 0), // it quotes what came over the wire; record tells what we know
	}
	return g, nil
}

// Close closes the connections to providers that are idle.
func (g *Gateway) Close() {
	if t, ok := g.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if explain(w, r) {
		return
	}
	now := time.Now()
	ex := &exchange{id: NewRequestID(now), started: now, provider: noProvider}
	g.metrics.inFlight.Inc()
	defer func() { g.finish(w, r, ex, recover()) }()
	if g.slots != nil {
		select {
		case g.slots <- struct{}{}:
			defer func() { <-g.slots }()
		default:
			g.refuse(w, r, ex, errOverloaded)
			return
		}
	}
	if err := g.prepare(r, ex); err != nil {
		g.refuse(w, r, ex, err)
		return
	}
	if r.ProtoMajor == 1 && r.ContentLength != 0 { // let an answer begin before the request has ended
		ex.duplex = http.NewResponseController(w).EnableFullDuplex() == nil
	}
	g.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, ex)))
}

// prepare finds out who asks for what, which key serves it, and where it goes.
func (g *Gateway) prepare(r *http.Request, ex *exchange) error {
	if isForbidden(r.Method) {
		return errMethod
	}
	provider, rest, err := split(r.URL.EscapedPath())
	if err != nil {
		return err
	}
	request, err := CallerOf(r.Header, r.URL.RawQuery, provider)
	if err != nil {
		return err
	}
	if rest != "" && !isSafe(rest) {
		return errPath
	}
	key, err := g.guard.resolve(r.Context(), g.resolver, request, r.RemoteAddr, r.Header)
	if err != nil {
		ex.provider = providerOf(provider, err)
		return err
	}
	ex.key, ex.provider, ex.credential = key, provider, request.Credential
	base, err := g.baseURL(key)
	if err != nil {
		return err
	}
	if ex.target, err = target(base, rest); err != nil {
		return err
	}
	ex.target.RawQuery = withoutCredential(r.URL.RawQuery, provider, request.Credential)
	return nil
}

// isForbidden tells the methods to which a provider would answer with the request itself, and so with its key, or with
// a tunnel. Some servers read them in lower case, too.
func isForbidden(method string) bool {
	return strings.EqualFold(method, http.MethodTrace) || strings.EqualFold(method, "TRACK") ||
		strings.EqualFold(method, http.MethodConnect)
}

// split cuts an escaped path into the provider's slug and the rest, which begins with a slash unless it is empty.
func split(path string) (provider, rest string, err error) {
	if path == "" || path[0] != '/' {
		return "", "", errNoRoute
	}
	provider = path[1:]
	if i := strings.IndexByte(provider, '/'); i >= 0 {
		provider, rest = provider[:i], provider[i:]
	}
	return provider, rest, nil
}

func (g *Gateway) baseURL(key *dataplane.Key) (*url.URL, error) {
	if upstream, ok := g.upstreams[key.Provider]; ok {
		return upstream, nil
	}
	base, err := url.Parse(key.BaseURL)
	if err != nil || checkDestination(base) != nil {
		return nil, errDestination
	}
	return base, nil
}

func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, ex *exchange, err error) {
	problem := ProblemOf(err, ex.id)
	ex.err, ex.status, ex.answered = err, problem.Status, true
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		ex.status = statusClientGone
	}
	if ex.leavesBody() {
		w.Header()["Connection"] = []string{"close"}
	}
	problem.Write(w)
}

// finish ends every exchange, whatever became of it; thrown is what was panicked with.
func (g *Gateway) finish(w http.ResponseWriter, r *http.Request, ex *exchange, thrown any) {
	if thrown != nil {
		ex.cut = ex.answered
		if thrown != http.ErrAbortHandler { //nolint:errorlint // the value that net/http documents for aborting
			ex.stack = debug.Stack() // what was panicked with may hold a secret
			if ex.err = errInternal; !ex.answered {
				g.refuse(w, r, ex, errInternal)
				thrown = nil
			}
		}
	}
	g.metrics.inFlight.Dec()
	g.record(r.Context(), ex)
	if thrown != nil {
		panic(http.ErrAbortHandler) // the caller must see that the answer is not whole
	}
}
