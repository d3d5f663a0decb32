// Package gateway serves inference requests with the keys that a resolver finds. Requests come in three ways:
//
//   - New is a reverse proxy: it sends /{provider}/… to the provider's base URL, with the provider's key in the place of
//     the caller's credential.
//   - NewForwardAuth answers other proxies that ask over HTTP (nginx, Caddy, Traefik), and package extauthz answers Envoy
//     over gRPC. The answer says which header to set; the proxy sends the request to the provider itself.
//
// All three read a caller's credential with CallerOf and refuse with ProblemOf. None of them sends a request a second
// time: the provider's answer is final, and its status is reported to the resolver.
//
// NewServer serves a handler on a listener, with limits that do not affect streams.
//
// A program that embeds New must discard the standard logger's output with log.SetOutput(io.Discard). net/http logs the
// bytes that a server sends on an idle connection, and these may contain a request with the provider's key.
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/verdict"
)

// Resolver finds keys; dataplane.Resolver is one. It must be safe for concurrent use.
type Resolver interface {
	// Resolve returns the key that serves a caller. Its errors wrap dataplane's sentinels.
	Resolve(ctx context.Context, request dataplane.Request) (*dataplane.Key, error)
	// ReportAnswer records the provider's answer to a request with the key. body is the beginning of the answer's body.
	// It is empty if the key's rules do not need it.
	ReportAnswer(key *dataplane.Key, status int, body []byte)
	// ReportExposed records that the provider sent the key itself back. The gateway has masked it.
	ReportExposed(key *dataplane.Key)
	// CountUse counts a request with the key if the provider's answer is not known, or if the request was refused here.
	CountUse(key *dataplane.Key, refused bool)
	// Begin counts a request that a key is about to serve, or returns an error if the key is at a limit. Its caller
	// calls end when the request has ended.
	Begin(key *dataplane.Key) (end func(), err error)
	// SetAside sets aside a key that the provider has rate-limited. wait is how long the provider says to wait.
	SetAside(key *dataplane.Key, wait time.Duration)
	// Watch calls ended when a use of the key must end, or may have to: see dataplane.Resolver.
	Watch(key *dataplane.Key, ended func(certain bool)) (stop func())
}

// Config holds the settings of a gateway. Resolver is required; everything else has a default.
type Config struct {
	Resolver Resolver
	// Log receives one line for each request; nil is slog.Default. Lines hold no path, query, header or body.
	Log *slog.Logger
	// Metrics is where the metrics are registered; nil is nowhere.
	Metrics prometheus.Registerer
	// Transport sends requests to providers; nil is NewTransport's default.
	Transport http.RoundTripper
	// CustomTransport sends requests to custom providers; nil is NewGuardedTransport's default.
	CustomTransport http.RoundTripper
	// Insecure allows Upstreams that are http to other machines.
	Insecure bool
	// Upstreams replace the base URLs of providers, by slug, for private deployments and tests. They must be https, or
	// http to this machine. Providers' keys are sent to them.
	Upstreams map[string]*url.URL
	// StreamGrace is how long a streamed answer continues after its key or its caller was revoked. Upgraded connections are closed at
	// once.
	StreamGrace time.Duration
	// UpgradeLife is how long an upgraded connection may last; 0 is no limit.
	UpgradeLife time.Duration
	// MaxConcurrent bounds the number of requests proxied at once; 0 is no bound. Further requests get 503.
	MaxConcurrent int
	// ForwardAuthSecret returns the secret that callers of NewForwardAuth's handler must send; nil requires none. It is
	// called for each request, so that the secret can change; while it returns "", every request is refused.
	ForwardAuthSecret func() string
	// FailedAuthLimit is the number of refusals per minute that one client address may cause with a wrong credential,
	// project or provider; 0 is no limit. Further requests get 429.
	FailedAuthLimit float64
	// Guard counts the refusals that FailedAuthLimit limits. The proxy, forward-auth and ext_authz of a process should
	// share one Guard, so that they count together. If nil, each has its own.
	Guard *Guard
	// TrustedProxies are the networks whose X-Forwarded-For is believed; empty believes none.
	TrustedProxies []netip.Prefix
}

// common is what the proxy and the Authorizer share.
type common struct {
	resolver Resolver
	log      *slog.Logger
	metrics  *metrics
	guard    *Guard
	proxies  []netip.Prefix // whose X-Forwarded-For is believed
}

func newCommon(cfg Config) (common, error) {
	if cfg.Resolver == nil {
		return common{}, errors.New("gateway: no resolver")
	}
	counts, err := newMetrics(cfg.Metrics)
	if err != nil {
		return common{}, err
	}
	log := cmp.Or(cfg.Log, slog.Default())
	return common{cfg.Resolver, log, counts, newGuard(cfg, counts, log), cfg.TrustedProxies}, nil
}

// Gateway is the reverse proxy. It is an http.Handler, and safe for concurrent use.
type Gateway struct {
	common

	upstreams                map[string]*url.URL
	streamGrace, upgradeLife time.Duration
	slots                    chan struct{} // holds a value for each request being proxied; nil is no bound
	transport, custom        http.RoundTripper
	proxy                    httputil.ReverseProxy
}

// New returns the reverse proxy: it sends /{provider}/… to the provider with the key that serves the caller.
//
// Bodies and streams pass unchanged, in both directions at once, and nothing is sent twice. The provider's answer is
// passed on with Agentrouter-Key-Id and Agentrouter-Reason added and cookies removed.
func New(cfg Config) (*Gateway, error) {
	shared, err := newCommon(cfg)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		common: shared, upstreams: maps.Clone(cfg.Upstreams), transport: cfg.Transport, custom: cfg.CustomTransport,
		streamGrace: cfg.StreamGrace, upgradeLife: cfg.UpgradeLife,
	}
	for provider, upstream := range g.upstreams {
		if upstream == nil || checkBase(upstream, cfg.Insecure) != nil {
			return nil, fmt.Errorf("gateway: upstream of %s: %w", provider, errDestination)
		}
	}
	if g.transport == nil {
		g.transport = NewTransport(TransportConfig{})
	}
	if g.custom == nil {
		g.custom = NewGuardedTransport(TransportConfig{})
	}
	if cfg.MaxConcurrent > 0 {
		g.slots = make(chan struct{}, cfg.MaxConcurrent)
	}
	g.proxy = httputil.ReverseProxy{
		Rewrite:        g.rewrite,
		Transport:      outbound{g},
		BufferPool:     new(bufferPool),
		ModifyResponse: g.modifyResponse,
		ErrorHandler:   g.handleError,
		ErrorLog:       log.New(io.Discard, "", 0), // it quotes bytes from the wire; record logs only known values
	}
	return g, nil
}

// Close closes the idle connections to providers.
func (g *Gateway) Close() {
	for _, transport := range []http.RoundTripper{g.transport, g.custom} {
		if t, ok := transport.(interface{ CloseIdleConnections() }); ok {
			t.CloseIdleConnections()
		}
	}
}

// proxiedRequest is the state of one request. The handler's goroutine owns it, except for bodyRead.
//
// It is refused (err), or sent to the provider (sentAt). The response then starts (responseStarted, status), and ends
// whole or cut.
type proxiedRequest struct {
	id          string
	receivedAt  time.Time
	provider    string // for logs and metrics: a slug that the control plane knows, or noProvider
	caller      dataplane.Request
	path        safePath
	key         *dataplane.Key
	destination destination
	incoming    *http.Request // as the caller sent it
	sentTo      *url.URL
	redactor    *redactor
	ending      ending
	end         func() // tells the key's limits that the request has ended; nil if they do not count it

	operation       string    // its class, once it is known
	sentAt          time.Time // zero until the request is sent to the provider
	answeredAt      time.Time // when the head of the provider's answer came
	status          int       // as answered, by the provider or by us
	responseStarted bool
	cut             bool   // whether the response ended early
	err             error  // why the gateway refused
	stack           []byte // of a panic

	duplex   bool        // whether the response may start before the request's body has ended
	bodyRead atomic.Bool // set by the transport's goroutine
}

// isBodyUnread reports whether the response comes before the end of the request's body. The connection then can't be
// reused: net/http would read the rest of the body and the next request at once.
func (p *proxiedRequest) isBodyUnread() bool { return p.duplex && !p.bodyRead.Load() }

type proxiedRequestKey struct{}

func proxiedRequestOf(ctx context.Context) *proxiedRequest {
	p, _ := ctx.Value(proxiedRequestKey{}).(*proxiedRequest) // serve has put it there
	return p
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	p := &proxiedRequest{id: NewRequestID(now), receivedAt: now, provider: noProvider}
	g.metrics.inFlight.Inc()
	defer func() { g.finish(w, r, p, recover()) }()
	if err := g.serve(w, r, p); err != nil {
		g.refuse(w, r, p, err)
	}
}

// serve proxies a request. It finds the key; then the reverse proxy calls rewrite and RoundTrip in outgoing.go, and
// modifyResponse or handleError.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, p *proxiedRequest) error {
	if g.slots != nil {
		select {
		case g.slots <- struct{}{}:
			defer func() { <-g.slots }()
		default:
			return errOverloaded
		}
	}
	if err := g.findKey(r, p); err != nil {
		return err
	}
	stopWatching := g.resolver.Watch(p.key, p.ending.request)
	defer stopWatching()
	lifecycle.MarkAuthenticated(r.Context())
	defer func() {
		if p.end != nil {
			p.end()
		}
	}()
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		p.duplex = http.NewResponseController(w).EnableFullDuplex() == nil
	}
	g.proxy.ServeHTTP(&answerWriter{ResponseWriter: w, request: p, around: w.Header().Clone()}, r.WithContext(context.WithValue(r.Context(), proxiedRequestKey{}, p)))
	return nil
}

// modifyResponse handles the head of the provider's answer.
func (g *Gateway) modifyResponse(res *http.Response) error {
	p := proxiedRequestOf(res.Request.Context())
	p.status, p.responseStarted, p.answeredAt = res.StatusCode, true, time.Now()
	g.metrics.upstream.WithLabelValues(countedProvider(p.provider)).Observe(p.answeredAt.Sub(p.sentAt).Seconds())
	if res.StatusCode == http.StatusTooManyRequests {
		if wait, ok := retryAfter(res.Header, p.answeredAt); ok {
			g.resolver.SetAside(p.key, wait) // before the report, which would set it aside for the default time
		}
	}
	needsBody := p.key.Answers.NeedBody(res.StatusCode)
	if !needsBody {
		g.resolver.ReportAnswer(p.key, res.StatusCode, nil)
	}
	if err := p.cleanResponse(res); err != nil {
		if needsBody {
			g.resolver.ReportAnswer(p.key, res.StatusCode, nil) // the body can't be read
		}
		return err
	}
	ctx, answer, isUpgrade := res.Request.Context(), res.Body, res.StatusCode == http.StatusSwitchingProtocols
	p.ending.setAnswer(func(asked <-chan bool) { g.endAnswer(ctx, p, answer, isUpgrade, asked) })
	if isUpgrade {
		g.boundLife(ctx, answer)
	}
	if needsBody {
		res.Body = &judgedBody{ReadCloser: res.Body, report: func(body []byte) {
			g.resolver.ReportAnswer(p.key, res.StatusCode, body)
		}}
	}
	res.Header[HeaderKeyID] = []string{p.key.ID}
	res.Header[HeaderReason] = []string{p.key.Reason}
	res.Header[HeaderRequestID] = []string{p.id}
	if p.isBodyUnread() {
		res.Header["Connection"] = []string{"close"}
	}
	return nil
}

// retryAfter returns the time to wait according to Retry-After, which is a number of seconds or a date (RFC 9110).
func retryAfter(header http.Header, now time.Time) (wait time.Duration, ok bool) {
	text := header.Get("Retry-After")
	const most = 24 * 60 * 60 // a larger number may not fit a Duration
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil {
		return time.Duration(min(seconds, most)) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	return at.Sub(now), true
}

// judgedBody is the body of an answer. The beginning of the body decides whether the key is good. judgedBody passes the
// body on at once, so the caller never waits, and copies the beginning. It reports the copy once: when the copy is long
// enough, or at the end of the body. One goroutine reads and closes it.
type judgedBody struct {
	io.ReadCloser
	begun  []byte
	report func(begun []byte) // nil once it was called
}

// Read implements io.Reader.
func (b *judgedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.report != nil {
		b.begun = append(b.begun, p[:min(n, verdict.BodyLimit-len(b.begun))]...)
		if err != nil || len(b.begun) == verdict.BodyLimit {
			b.end()
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *judgedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

func (b *judgedBody) end() {
	if b.report != nil {
		b.report(b.begun)
		b.begun, b.report = nil, nil
	}
}

// handleError refuses a request that the provider did not answer.
func (g *Gateway) handleError(w http.ResponseWriter, r *http.Request, err error) {
	p := proxiedRequestOf(r.Context())
	switch {
	case p.err != nil: // the request was not sent
	case errors.Is(err, errModelUnreadable): // from the rest of the body
	case r.Context().Err() != nil:
		err = context.Canceled
	default:
		err = newUpstreamError(err)
	}
	g.refuse(w, p.incoming, p, err) // r has the provider's URL
}

// refuse answers a request with the problem for an error.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, p *proxiedRequest, err error) {
	err = asLimit(p.key, err)
	problem := ProblemOf(err, p.id)
	provider, path, _ := splitPath(r.URL.EscapedPath())
	problem.Dialect = dialectOf(provider, path, r.Header)
	if p.key != nil && p.key.IsCustom() {
		problem.Dialect = Dialect(p.key.Dialect)
	}
	p.err, p.status, p.responseStarted = err, problem.Status, true
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		p.status = statusClientGone
	}
	if p.isBodyUnread() {
		w.Header()["Connection"] = []string{"close"}
	}
	problem.Write(w)
}

// finish records every request, however it ended; thrown is the value of a panic, or nil.
func (g *Gateway) finish(w http.ResponseWriter, r *http.Request, p *proxiedRequest, thrown any) {
	if thrown != nil {
		p.cut = p.responseStarted
		if thrown != http.ErrAbortHandler { //nolint:errorlint // the value that net/http documents for aborting
			p.stack = debug.Stack() // thrown itself may hold a secret
			if p.err = errInternal; !p.responseStarted {
				g.refuse(w, r, p, errInternal)
				thrown = nil
			}
		}
	}
	g.metrics.inFlight.Dec()
	if p.key != nil && p.answeredAt.IsZero() {
		g.resolver.CountUse(p.key, p.sentAt.IsZero())
	}
	g.record(r, p)
	if thrown != nil {
		panic(http.ErrAbortHandler) // the caller must see that the response is incomplete
	}
}

// The limits of every server. There is no limit on the duration of a request or an answer, because streams last.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// unreadTimeout is how long net/http may wait for the rest of a body that the handler did not read.
	unreadTimeout  = 2 * time.Second
	maxHeaderBytes = 64 << 10
)

// A third of the files that the process may open is for the connections of one listener. Another third is for connections to
// providers, and the rest keeps the control plane's stream and probes working.
const (
	fileShare      = 3
	maxConnections = 1_000_000
)

// NewServer returns a server for a gateway's handler, with limits that do not affect streams. A nil TLS configuration
// means plain HTTP. proxies are the TrustedProxies of lifecycle.Connections.
func NewServer(
	listener net.Listener, handler http.Handler, tlsConfig *tls.Config, proxies []netip.Prefix, log *slog.Logger,
) *lifecycle.Server {
	upgraded := new(sync.WaitGroup)
	return lifecycle.NewServer(lifecycle.ServerConfig{
		Connections: lifecycle.Connections{Max: lifecycle.FileShare(fileShare, maxConnections), TrustedProxies: proxies},
		Listener:    listener, TLS: tlsConfig, Log: log, Upgraded: upgraded,
		HTTP: &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer boundUnreadBody(w, r)
				if r.Header["Upgrade"] != nil {
					upgraded.Add(1)
					defer upgraded.Done()
				}
				handler.ServeHTTP(w, r)
			}),
			ReadHeaderTimeout:            readHeaderTimeout,
			IdleTimeout:                  idleTimeout,
			MaxHeaderBytes:               maxHeaderBytes,
			DisableGeneralOptionsHandler: true,
		},
	})
}

// boundUnreadBody bounds the time for a body that the handler has not read to its end. Before net/http answers, closes
// the connection or takes the next request from it, it reads the rest of the body. Without a bound, it would wait
// forever for a stranger who sends nothing. If the body was read, net/http sets a new deadline.
func boundUnreadBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadTimeout)) // fails if the connection is gone
	}
}
