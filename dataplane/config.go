package dataplane

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/netaddr"
)

const (
	defaultCacheSize    = 10_000
	defaultNegativeTTL  = time.Second
	defaultMaxAge       = 5 * time.Minute
	defaultFetchTimeout = 2 * time.Second
	maxMaxStale         = time.Hour
)

// Config holds the settings of a Resolver. ControlPlane is required. So is Token, unless HTTPClient has a client
// certificate.
type Config struct {
	// ControlPlane is the URL of the data-plane API, such as http://127.0.0.1:8081.
	ControlPlane string
	// Insecure allows plain http to another machine. Keys then travel in clear, so set it only inside an encrypted
	// network.
	Insecure bool
	// Token returns the data plane's own credential, dp_…. It is called for each request, so it must be quick. It may
	// read a file that is replaced while the program runs. If nil, the credential is the client certificate of
	// HTTPClient, over https.
	Token func() string
	// HTTPClient makes the requests; the stream gets a copy of it with connections of its own. If nil, a client without
	// proxy and redirects is used.
	HTTPClient *http.Client
	// CacheSize is the number of answers to keep; 0 means 10,000.
	CacheSize int
	// MaxStale is how long the cache may be used after the lease has ended, while the control plane does not answer. 0
	// means not at all; the maximum is one hour. The control plane may set a lower limit. It gives no lease to a data
	// plane that declares more than its limit.
	MaxStale time.Duration
	// NegativeTTL is how long a refusal is cached (no key, not a member, unauthenticated …); 0 means 1 s.
	NegativeTTL time.Duration
	// MaxAge is the age at which a cached key is fetched again even if no event touched it; 0 means 5 min.
	MaxAge time.Duration
	// FetchTimeout bounds a fetch with its retries; 0 means 2 s.
	FetchTimeout time.Duration
	// CountInFlight adds to acknowledgements how many uses of a revoked key were in progress when the key was dropped.
	// Set it only if the program calls Watch for every use of a key, and calls the returned stop function when the use
	// ends.
	CountInFlight bool
	// CustomProviders allows keys of custom providers. Their base URLs come from people who do not run this program's
	// network, so set it only if the program checks each address that it connects to. If it is set, an older control
	// plane refuses fetches by a key's id.
	CustomProviders bool
	// Restrictions declares that the program refuses requests that a key's Restrictions do not allow. Without it,
	// restricted keys are not found.
	Restrictions bool
	// Limits declares that the program calls Begin for every use of a key, and refuses the request if Begin fails.
	// Without it, keys with limits are not found.
	Limits bool
	// SendTest sends a request that tests a key to the provider with this base URL, and returns the answer. The request
	// carries the key. SendTest must not follow redirects, and must check the addresses of custom providers as for any
	// other request. If nil, this data plane tests no keys.
	SendTest func(provider, baseURL string, request *http.Request) (*http.Response, error)
	// Clock measures leases and expiry. If nil, it is the system's monotonic clock.
	Clock Clock
	// Metrics is where the metrics aikeys_dataplane_… are registered; if nil, nowhere.
	Metrics prometheus.Registerer
	// Log receives what an operator should know; if nil, nothing is logged.
	Log *slog.Logger

	intervals intervals
}

// intervals are the times that only tests change.
type intervals struct {
	ack     time.Duration // between acknowledgements that are not urgent
	report  time.Duration // between reports without refusals
	usage   time.Duration // between batches of counts
	refused time.Duration // added to the wait before the stream is opened again after a refusal
}

// Clock measures elapsed time for leases and expiry. It must never go back.
type Clock interface {
	// Now returns the time since a fixed point.
	Now() time.Duration
}

// systemClock is the system's monotonic clock, which changes to the time of day do not affect.
type systemClock struct{ start time.Time }

func (c systemClock) Now() time.Duration { return time.Since(c.start) }

// withDefaults returns the configuration with defaults filled in, or an error that lists every invalid field.
func (cfg Config) withDefaults() (Config, error) {
	var wrong []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	target, err := url.Parse(cfg.ControlPlane)
	ok := err == nil && (target.Scheme == "http" || target.Scheme == "https") && target.Host != ""
	check(ok, "ControlPlane: must be an http or https URL") // without the URL, which may hold a password
	check(!ok || target.Scheme == "https" || cfg.Insecure || netaddr.IsLoopback(target.Hostname()),
		"ControlPlane: plain http beyond this machine would carry keys in clear; use https, or set Insecure")
	check(!ok || target.User == nil, "ControlPlane: must not hold a user or password")
	check(cfg.Token != nil || cfg.HTTPClient != nil && ok && target.Scheme == "https",
		"Token: is required, unless HTTPClient has a client certificate and ControlPlane is https")
	check(cfg.CacheSize >= 0, "CacheSize: %d is negative", cfg.CacheSize)
	check(cfg.MaxStale >= 0 && cfg.MaxStale <= maxMaxStale, "MaxStale: %v is not from 0 to %v", cfg.MaxStale, maxMaxStale)
	check(cfg.NegativeTTL >= 0, "NegativeTTL: %v is negative", cfg.NegativeTTL)
	check(cfg.MaxAge >= 0, "MaxAge: %v is negative", cfg.MaxAge)
	check(cfg.FetchTimeout >= 0, "FetchTimeout: %v is negative", cfg.FetchTimeout)
	if len(wrong) > 0 {
		return Config{}, fmt.Errorf("data plane: %w", errors.Join(wrong...))
	}
	cfg.CacheSize = cmp.Or(cfg.CacheSize, defaultCacheSize)
	cfg.NegativeTTL = cmp.Or(cfg.NegativeTTL, defaultNegativeTTL)
	cfg.MaxAge = cmp.Or(cfg.MaxAge, defaultMaxAge)
	cfg.FetchTimeout = cmp.Or(cfg.FetchTimeout, defaultFetchTimeout)
	cfg.intervals.ack = cmp.Or(cfg.intervals.ack, ackInterval)
	cfg.intervals.report = cmp.Or(cfg.intervals.report, reportInterval)
	cfg.intervals.usage = cmp.Or(cfg.intervals.usage, usageInterval)
	cfg.intervals.refused = cmp.Or(cfg.intervals.refused, refusedDelay)
	if cfg.Clock == nil {
		cfg.Clock = systemClock{start: time.Now()} //nolint:forbidigo // the start of a monotonic clock, never shown as a date
	}
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	return cfg, nil
}

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
// connections of the first. The stream's client dials a new connection each time and shares none, so the stream never
// gets a dead connection.
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
		// With this header, net/http repeats the request if a kept connection was closed. A nil value is not sent.
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
