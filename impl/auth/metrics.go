package auth

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the authentications of requests, the look-ups of credentials in the database, and the requests refused
// after too many failed authentications. A session in the cache needs no look-up.
type Metrics struct {
	authentications *prometheus.CounterVec
	lookUps         prometheus.Counter
	guesses         prometheus.Counter
}

// NewMetrics registers the counters; it fails when they are registered already.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		authentications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_session_authentications_total", Help: "Requests authenticated, by result.",
		}, []string{"result"}),
		lookUps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "aikeys_session_lookups_total", Help: "Authentications that the cache could not answer: credentials looked up in the database.",
		}),
		guesses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "aikeys_session_guesses_refused_total", Help: "Requests answered with 429 because their address failed to authenticate too often.",
		}),
	}
	for _, c := range []prometheus.Collector{m.authentications, m.lookUps, m.guesses} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// countAuthentication counts an authentication that ended with err. A nil Metrics counts nothing.
func (m *Metrics) countAuthentication(err error) {
	result := "unavailable"
	switch {
	case m == nil:
		return
	case err == nil:
		result = "ok"
	case errors.Is(err, ErrUnauthenticated):
		result = "refused"
	}
	m.authentications.WithLabelValues(result).Inc()
}

// countLookUp counts a credential that is looked up in the database. A nil Metrics counts nothing.
func (m *Metrics) countLookUp() {
	if m != nil {
		m.lookUps.Inc()
	}
}

// countRefusedGuess counts a request from an address over its limit of failures. A nil Metrics counts nothing.
func (m *Metrics) countRefusedGuess() {
	if m != nil {
		m.guesses.Inc()
	}
}
