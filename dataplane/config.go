package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/internal/netaddr"
)

const (
	defaultCacheSize    = 10_000
	defaultNegativeTTL  = time.Second
	defaultMaxAge       = 5 * time.Minute
	defaultFetchTimeout = 2 * time.Second
	maxMaxStale         = time.Hour
)

// Config is what a Resolver needs. ControlPlane is required, and Token or an HTTPClient with a client certificate.
type Config struct {
	// ControlPlane is the URL of the data-plane API, such as http://127.0.0.1:8081.
	ControlPlane string
	// Insecure lets it be plain http beyond this machine, which carries keys in clear: only inside an encrypted network.
	Insecure bool
	// Token returns the data plane's own credential, dp_…. It is asked anew for each request, so that a file may be
	// rotated, and must be quick. Nil: a client certificate is the credential, which HTTPClient shows over https.
	Token func() string
	// HTTPClient makes the requests; the stream gets a copy of it, with connections of its own. Nil: one that uses no
	// proxy and follows no redirect.
	HTTPClient *http.Client
	// CacheSize is how many answers to keep; 0 means 10,000.
	CacheSize int
	// MaxStale is how much longer than its lease the cache is used while the control plane does not answer. 0: not at
	// all. At most one hour; the control plane may allow less, and gives a data plane that declares more no lease.
	MaxStale time.Duration
	// NegativeTTL is how long a refusal is remembered (no key, not a member, unauthenticated …); 0 means 1 s.
	NegativeTTL time.Duration
	// MaxAge is when a cached key is fetched again though nothing is known to have changed; 0 means 5 min.
	MaxAge time.Duration
	// FetchTimeout bounds a fetch, repetitions included; 0 means 2 s.
	FetchTimeout time.Duration
	// Clock measures leases and expiry; nil: the system's monotonic clock.
	Clock Clock
	// Metrics is where the metrics aikeys_dataplane_… are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// Log gets what an operator should know of; nil: nothing is logged.
	Log *slog.Logger
}

// withDefaults returns the configuration with what was left out, or what is wrong with it, all at once.
func (cfg Config) withDefaults() (Config, error) {
	var wrong []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	target, err := url.Parse(cfg.ControlPlane)
	ok := err == nil && (target.Scheme == "http" || target.Scheme == "https") && target.Host != ""
	check(ok, "ControlPlane: must be an http or https URL") // which is not repeated: it may hold a password
	check(!ok || target.Scheme == "https" || cfg.Insecure || netaddr.Is(target.Hostname()),
		"ControlPlane: plain http beyond this machine would carry keys in clear; use https, or set Insecure")
	check(!ok || target.User == nil, "ControlPlane: may hold no user or password")
	check(cfg.hasCredential(target),
		"Token: is required, unless HTTPClient shows a client certificate, over https")
	check(cfg.CacheSize >= 0, "CacheSize: %d is negative", cfg.CacheSize)
	check(cfg.MaxStale >= 0 && cfg.MaxStale <= maxMaxStale, "MaxStale: %v is not from 0 to %v", cfg.MaxStale, maxMaxStale)
	check(cfg.NegativeTTL >= 0, "NegativeTTL: %v is negative", cfg.NegativeTTL)
	check(cfg.MaxAge >= 0, "MaxAge: %v is negative", cfg.MaxAge)
	check(cfg.FetchTimeout >= 0, "FetchTimeout: %v is negative", cfg.FetchTimeout)
	if len(wrong) > 0 {
		return Config{}, fmt.Errorf("data plane: %w", errors.Join(wrong...))
	}
	cfg.CacheSize = orDefault(cfg.CacheSize, defaultCacheSize)
	cfg.NegativeTTL = orDefault(cfg.NegativeTTL, defaultNegativeTTL)
	cfg.MaxAge = orDefault(cfg.MaxAge, defaultMaxAge)
	cfg.FetchTimeout = orDefault(cfg.FetchTimeout, defaultFetchTimeout)
	if cfg.Clock == nil {
		cfg.Clock = systemClock{start: time.Now()}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

// hasCredential tells of a token, and of a client that can show a certificate to the control plane.
func (cfg *Config) hasCredential(target *url.URL) bool {
	return cfg.Token != nil || cfg.HTTPClient != nil && target != nil && target.Scheme == "https"
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}
