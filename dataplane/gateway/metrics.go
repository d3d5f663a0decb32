package gateway

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the faces of a gateway do. One set serves all faces of a process.
type Metrics struct {
	requests       *prometheus.CounterVec
	authorizations *prometheus.CounterVec
	added          prometheus.Histogram
	upstream       *prometheus.HistogramVec
	inFlight       prometheus.Gauge
}

// NewMetrics returns the metrics that are registered with registerer, which it registers unless they are. A nil
// registerer is fine: nobody reads them then.
func NewMetrics(registerer prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_gateway_requests_total", Help: "Requests proxied, by provider and status; 499 where the caller left.",
		}, []string{"provider", "status"}),
		authorizations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_gateway_authorizations_total", Help: "Answers to other proxies, by face, provider and status.",
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
	}
	if registerer == nil {
		return m, nil
	}
	return m, errors.Join(
		register(registerer, &m.requests), register(registerer, &m.authorizations), register(registerer, &m.added),
		register(registerer, &m.upstream), register(registerer, &m.inFlight),
	)
}

// register replaces the collector by the one of its name that is registered already, if there is one.
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
