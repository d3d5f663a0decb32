package secrets

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/impl/httpapi"
)

// nobody is the client label of requests from unlisted clients. No client may have this name.
const nobody = "none"

type metrics struct {
	operations *prometheus.CounterVec
	duration   *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer, inFlight, queued func() int) (*metrics, error) {
	m := &metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "secrets_svc_operations_total", Help: "Operations, by client and outcome: ok, or the type of the problem.",
		}, []string{"client", "operation", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "secrets_svc_operation_duration_seconds", Help: "Time from a request's head to the end of its operation.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"operation"}),
	}
	for _, c := range []prometheus.Collector{
		m.operations, m.duration,
		gauge("secrets_svc_operations_in_flight", "Operations that run now.", inFlight),
		gauge("secrets_svc_queue_length", "Operations that wait for a free slot.", queued),
	} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

func gauge(name, help string, value func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
}

func (m *metrics) done(call *httpapi.Call, err error) {
	client, outcome := nobody, "ok"
	if c, known := call.Actor.(Client); known {
		client = c.Name
	}
	if err != nil {
		outcome = slug(err)
	}
	m.operations.WithLabelValues(client, call.Operation, outcome).Inc()
	m.duration.WithLabelValues(call.Operation).Observe(time.Since(call.Started).Seconds())
}
