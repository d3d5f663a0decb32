package telemetry

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/models"
)

// NewRegistry returns a registry with the metrics of the process, of the Go runtime, of the build and of the database's
// connections.
func NewRegistry(pool func() models.PoolStats) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
		poolCollector{pool},
	)
	return registry
}

// poolCollector reads the pool once for all of its metrics.
type poolCollector struct{ stats func() models.PoolStats }

var (
	poolConnections = prometheus.NewDesc("aikeys_db_connections", "Connections to the database, by state.", []string{"state"}, nil)
	poolMax         = prometheus.NewDesc("aikeys_db_connections_max", "Connections that there may be to the database.", nil, nil)
	poolWaits       = prometheus.NewDesc("aikeys_db_connection_waits_total", "Times that no connection was idle, and one had to be opened or waited for.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c poolCollector) Describe(to chan<- *prometheus.Desc) {
	to <- poolConnections
	to <- poolMax
	to <- poolWaits
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(to chan<- prometheus.Metric) {
	stats := c.stats()
	to <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(stats.InUse), "in_use")
	to <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(stats.Idle), "idle")
	to <- prometheus.MustNewConstMetric(poolMax, prometheus.GaugeValue, float64(stats.Max))
	to <- prometheus.MustNewConstMetric(poolWaits, prometheus.CounterValue, float64(stats.Waits))
}

// SessionMetrics counts what the session cache is asked and what it had to look up; the difference is what it saved.
type SessionMetrics struct {
	authentications *prometheus.CounterVec
	lookUps         prometheus.Counter
}

// NewSessionMetrics registers the counters; it fails when they are registered already.
func NewSessionMetrics(registry prometheus.Registerer) (*SessionMetrics, error) {
	m := &SessionMetrics{
		authentications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_session_authentications_total", Help: "Requests authenticated, by result.",
		}, []string{"result"}),
		lookUps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "aikeys_session_lookups_total", Help: "Authentications that the cache could not answer: credentials looked up in the database.",
		}),
	}
	for _, c := range []prometheus.Collector{m.authentications, m.lookUps} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// Tokens counts the look-ups of next.
func (m *SessionMetrics) Tokens(next auth.TokenFinder) auth.TokenFinder {
	return countedTokens{next, m.lookUps}
}

type countedTokens struct {
	auth.TokenFinder
	lookUps prometheus.Counter
}

// FindToken implements auth.TokenFinder.
func (c countedTokens) FindToken(ctx context.Context, id string) (models.Token, error) {
	c.lookUps.Inc()
	return c.TokenFinder.FindToken(ctx, id)
}

// DataPlanes counts the look-ups of next.
func (m *SessionMetrics) DataPlanes(next auth.DataPlaneFinder) auth.DataPlaneFinder {
	return countedDataPlanes{next, m.lookUps}
}

type countedDataPlanes struct {
	next    auth.DataPlaneFinder
	lookUps prometheus.Counter
}

// FindDataPlane implements auth.DataPlaneFinder.
func (c countedDataPlanes) FindDataPlane(ctx context.Context, id string) (models.DataPlane, error) {
	c.lookUps.Inc()
	return c.next.FindDataPlane(ctx, id)
}

// FindDataPlanesByCertificate implements auth.DataPlaneFinder.
func (c countedDataPlanes) FindDataPlanesByCertificate(ctx context.Context, names []string) ([]models.DataPlane, error) {
	c.lookUps.Inc()
	return c.next.FindDataPlanesByCertificate(ctx, names)
}

// CertificateSessions counts the authentications of next.
func (m *SessionMetrics) CertificateSessions(next httpapi.CertificateSessions) httpapi.CertificateSessions {
	return countedCertificateSessions{next, m.authentications}
}

type countedCertificateSessions struct {
	httpapi.CertificateSessions
	authentications *prometheus.CounterVec
}

// AuthenticateCertificate implements httpapi.CertificateSessions.
func (c countedCertificateSessions) AuthenticateCertificate(ctx context.Context, names []string) (auth.Principal, error) {
	principal, err := c.CertificateSessions.AuthenticateCertificate(ctx, names)
	c.authentications.WithLabelValues(result(err)).Inc()
	return principal, err
}

// Sessions counts the authentications of next.
func (m *SessionMetrics) Sessions(next httpapi.Sessions) httpapi.Sessions {
	return countedSessions{next, m.authentications}
}

type countedSessions struct {
	httpapi.Sessions
	authentications *prometheus.CounterVec
}

// Authenticate implements httpapi.Sessions.
func (c countedSessions) Authenticate(ctx context.Context, authorization string) (auth.Principal, error) {
	principal, err := c.Sessions.Authenticate(ctx, authorization)
	c.authentications.WithLabelValues(result(err)).Inc()
	return principal, err
}

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, auth.ErrUnauthenticated):
		return "refused"
	}
	return "unavailable"
}
