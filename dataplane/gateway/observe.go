package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/netaddr"
)

// noProvider is logged and counted for a request whose provider the control plane does not know: the slug could be any
// text.
const noProvider = "none"

// statusClientGone is the status that is logged and counted for a request whose caller left before the answer. nginx
// uses the same number.
const statusClientGone = 499

// NewRequestID returns a new ULID.
func NewRequestID(now time.Time) string {
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil { // after the year 10889
		return ulid.ULID{}.String()
	}
	return id.String()
}

// loggedProvider returns the name to log for a provider whose key could not be resolved. The name is the provider's
// slug if the error shows that the control plane knows the provider, and otherwise noProvider.
func loggedProvider(slug string, err error) string {
	if isAny(err, dataplane.ErrNoKey, dataplane.ErrUserKeyRequired, dataplane.ErrKeyRevoked, dataplane.ErrKeyDisabled,
		dataplane.ErrKeyExpired, dataplane.ErrUnsupportedAuth) {
		return slug
	}
	return noProvider
}

// countedProvider returns the provider's label in metrics. All custom providers share one label, since customers may
// have any number of them.
func countedProvider(slug string) string {
	if dataplane.IsCustom(slug) {
		return "custom"
	}
	return slug
}

// record logs a request and counts it. Its attributes are an allow-list: paths, queries, headers and bodies can hold
// anything and are never logged.
func (g *Gateway) record(r *http.Request, p *proxiedRequest) {
	ctx := r.Context()
	g.metrics.requests.WithLabelValues(countedProvider(p.provider), strconv.Itoa(p.status)).Inc()
	if !p.sentAt.IsZero() {
		g.metrics.added.Observe(p.sentAt.Sub(p.receivedAt).Seconds())
	}
	level := levelOf(p.status, p.err)
	redacted := p.redactor != nil && p.redactor.found.Load()
	if redacted {
		g.metrics.redacted.Inc()
		g.resolver.ReportExposed(p.key)
		level = max(level, slog.LevelWarn)
	}
	if !g.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 20)
	attrs = append(attrs,
		slog.String("request_id", p.id), slog.String("provider", p.provider), slog.Int("status", p.status),
		slog.Duration("took", time.Since(p.receivedAt).Round(time.Microsecond)))
	if !p.answeredAt.IsZero() {
		attrs = append(attrs, slog.Duration("upstream", p.answeredAt.Sub(p.sentAt).Round(time.Microsecond)))
	}
	attrs = appendUse(attrs, p.key, r.Method, netaddr.Client(r.RemoteAddr, r.Header["X-Forwarded-For"], g.proxies))
	if p.operation != "" {
		attrs = append(attrs, slog.String("operation", p.operation))
	}
	if redacted {
		attrs = append(attrs, slog.Bool("redacted", true))
	}
	if p.cut {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	if p.err != nil {
		attrs = append(attrs, slog.String("cause", causeOf(p.err)))
	}
	if p.stack != nil {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	g.log.LogAttrs(ctx, level, "request", attrs...)
}

// appendUse appends the attributes of a request: the client's address and the method and, if there is a key, the key
// and who used it.
func appendUse(attrs []slog.Attr, key *dataplane.Key, method string, client netip.Addr) []slog.Attr {
	if key != nil {
		attrs = append(attrs,
			slog.String("key_id", key.ID), slog.String("reason", key.Reason),
			slog.String("customer_id", key.CustomerID), slog.String("project_id", key.ProjectID))
		if key.Caller != nil {
			attrs = append(attrs, slog.String("user_id", key.Caller.UserID))
			if key.Caller.TokenID != "" {
				attrs = append(attrs, slog.String("token_id", key.Caller.TokenID))
			}
		}
	}
	if client.IsValid() { // a proxy on a unix socket may not say
		attrs = append(attrs, slog.String("client", client.String()))
	}
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS": // others could be any text
		attrs = append(attrs, slog.String("method", method))
	}
	return attrs
}

// levelOf returns the level at which a request is logged. Refusals that strangers can cause get a low level, so that
// they can't fill the log. err is why the gateway refused, nil if the provider answered.
func levelOf(status int, err error) slog.Level {
	switch {
	case err == nil, status == statusClientGone:
		return slog.LevelInfo
	case status == http.StatusInternalServerError:
		return slog.LevelError
	case status > http.StatusInternalServerError:
		return slog.LevelWarn
	case status == http.StatusForbidden, errors.Is(err, dataplane.ErrKeyLimited):
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// causeOf returns what the log says about why the gateway refused.
func causeOf(err error) string {
	var (
		upstream *upstreamError
		limited  *dataplane.LimitError
	)
	switch {
	case errors.As(err, &upstream):
		return upstream.Error()
	case errors.Is(err, context.Canceled):
		return "caller gone"
	case errors.As(err, &limited):
		return "key-limited " + limited.Limit
	}
	return problems.Find(err).Slug
}

// metrics counts the requests of a process, whichever way they come in.
type metrics struct {
	requests       *prometheus.CounterVec
	authorizations *prometheus.CounterVec
	added          prometheus.Histogram
	upstream       *prometheus.HistogramVec
	inFlight       prometheus.Gauge
	redacted       prometheus.Counter
	guesses        prometheus.Counter
}

// newMetrics returns the gateway's metrics, registered with registerer. If registerer already has metrics of these
// names, newMetrics returns those. With a nil registerer, it registers nothing.
func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_gateway_requests_total", Help: "Requests proxied, by provider and status; 499 where the caller left.",
		}, []string{"provider", "status"}),
		authorizations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_gateway_authorizations_total", Help: "Answers to other proxies, by face (forward_auth, ext_authz or agent), provider and status.",
		}, []string{"face", "provider", "status"}),
		added: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "aikeys_gateway_added_seconds", Help: "Time from a request's head until it leaves for the provider.",
			Buckets: []float64{.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}),
		upstream: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aikeys_gateway_upstream_seconds", Help: "Time from when a request leaves until the head of the provider's answer.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
		}, []string{"provider"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "aikeys_gateway_requests_in_flight", Help: "Requests being proxied, upgraded connections among them.",
		}),
		guesses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "aikeys_gateway_guesses_refused_total", Help: "Requests answered with 429 because their address failed to authenticate too often.",
		}),
		redacted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "aikeys_gateway_redacted_total", Help: "Answers in which the provider sent its own key back.",
		}),
	}
	if registerer == nil {
		return m, nil
	}
	return m, errors.Join(
		register(registerer, &m.requests), register(registerer, &m.authorizations), register(registerer, &m.added),
		register(registerer, &m.upstream), register(registerer, &m.inFlight), register(registerer, &m.redacted), register(registerer, &m.guesses),
	)
}

// register registers the collector. If a collector of its name is already registered, *collector becomes that
// collector.
func register[C prometheus.Collector](registerer prometheus.Registerer, collector *C) error {
	err := registerer.Register(*collector)
	var taken prometheus.AlreadyRegisteredError
	if errors.As(err, &taken) {
		if existing, ok := taken.ExistingCollector.(C); ok {
			*collector = existing
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
