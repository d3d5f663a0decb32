package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/models"
)

// Metrics counts what the session cache is asked and what it had to look up; the difference is what it saved.
type Metrics struct {
	authentications *prometheus.CounterVec
	lookUps         prometheus.Counter
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
	}
	for _, c := range []prometheus.Collector{m.authentications, m.lookUps} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// Tokens counts the look-ups of next.
func (m *Metrics) Tokens(next TokenFinder) TokenFinder {
	return countedTokens{next, m.lookUps}
}

type countedTokens struct {
	TokenFinder
	lookUps prometheus.Counter
}

// FindToken implements TokenFinder.
func (c countedTokens) FindToken(ctx context.Context, id string) (models.Token, error) {
	c.lookUps.Inc()
	return c.TokenFinder.FindToken(ctx, id)
}

// DataPlanes counts the look-ups of next.
func (m *Metrics) DataPlanes(next DataPlaneFinder) DataPlaneFinder {
	return countedDataPlanes{next, m.lookUps}
}

type countedDataPlanes struct {
	next    DataPlaneFinder
	lookUps prometheus.Counter
}

// FindDataPlane implements DataPlaneFinder.
func (c countedDataPlanes) FindDataPlane(ctx context.Context, id string) (models.DataPlane, error) {
	c.lookUps.Inc()
	return c.next.FindDataPlane(ctx, id)
}

// FindDataPlanesByCertificate implements DataPlaneFinder.
func (c countedDataPlanes) FindDataPlanesByCertificate(ctx context.Context, names []string) ([]models.DataPlane, error) {
	c.lookUps.Inc()
	return c.next.FindDataPlanesByCertificate(ctx, names)
}

// CertificateSessions counts the authentications of next.
func (m *Metrics) CertificateSessions(next CertificateSessions) CertificateSessions {
	return countedCertificateSessions{next, m.authentications}
}

type countedCertificateSessions struct {
	CertificateSessions
	authentications *prometheus.CounterVec
}

// AuthenticateCertificate implements CertificateSessions.
func (c countedCertificateSessions) AuthenticateCertificate(ctx context.Context, names []string) (Principal, error) {
	principal, err := c.CertificateSessions.AuthenticateCertificate(ctx, names)
	c.authentications.WithLabelValues(result(err)).Inc()
	return principal, err
}

// Sessions counts the authentications of next.
func (m *Metrics) Sessions(next Sessions) Sessions {
	return countedSessions{next, m.authentications}
}

type countedSessions struct {
	Sessions
	authentications *prometheus.CounterVec
}

// Authenticate implements Sessions.
func (c countedSessions) Authenticate(ctx context.Context, authorization string) (Principal, error) {
	principal, err := c.Sessions.Authenticate(ctx, authorization)
	c.authentications.WithLabelValues(result(err)).Inc()
	return principal, err
}

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrUnauthenticated):
		return "refused"
	}
	return "unavailable"
}
