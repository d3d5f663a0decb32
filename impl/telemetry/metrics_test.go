package telemetry_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/telemetry"
	"github.com/agentrouter/aikeys/models"
)

func TestMetricsShowTheDatabasesConnections(t *testing.T) {
	stats := models.PoolStats{InUse: 3, Idle: 2, Max: 16, Waits: 41}
	registry := telemetry.NewRegistry(func() models.PoolStats { return stats })
	body := get(t, telemetry.NewHandler(registry, nil), "/metrics").Body.String()
	for _, line := range []string{
		`aikeys_db_connections{state="in_use"} 3`,
		`aikeys_db_connections{state="idle"} 2`,
		`aikeys_db_connections_max 16`,
		`aikeys_db_connection_waits_total 41`,
		`go_build_info{`,
		`go_goroutines `,
		`process_start_time_seconds `,
	} {
		require.Contains(t, body, "\n"+line)
	}
}

// sessions answers with one error, and counts drops.
type sessions struct {
	err     error
	dropped []string
}

func (s *sessions) Authenticate(context.Context, string) (auth.Principal, error) {
	return auth.Principal{UserID: "alice"}, s.err
}

func (s *sessions) AuthenticateCertificate(context.Context, []string) (auth.Principal, error) {
	return auth.Principal{UserID: "edge"}, s.err
}

func (s *sessions) Drop(tokenID string) { s.dropped = append(s.dropped, tokenID) }

type tokens struct{}

func (tokens) FindToken(_ context.Context, id string) (models.Token, error) {
	return models.Token{ID: id}, models.ErrNotFound
}

func (tokens) FindDataPlane(_ context.Context, id string) (models.DataPlane, error) {
	return models.DataPlane{ID: id}, nil
}

func (tokens) FindDataPlanesByCertificate(_ context.Context, names []string) ([]models.DataPlane, error) {
	return []models.DataPlane{{ID: names[0]}}, nil
}

func TestMetricsCountWhatTheSessionCacheSaves(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics, err := telemetry.NewSessionMetrics(registry)
	require.NoError(t, err)
	inner := &sessions{}
	counted := metrics.Sessions(inner)
	for _, inner.err = range []error{nil, nil, auth.ErrUnauthenticated, models.ErrUnavailable} {
		principal, err := counted.Authenticate(t.Context(), "")
		require.Equal(t, "alice", principal.UserID)
		require.Equal(t, inner.err, err)
	}
	counted.Drop("01J")
	require.Equal(t, []string{"01J"}, inner.dropped)

	token, err := metrics.Tokens(tokens{}).FindToken(t.Context(), "01K")
	require.Equal(t, "01K", token.ID)
	require.ErrorIs(t, err, models.ErrNotFound)

	inner.err = nil
	principal, err := metrics.CertificateSessions(inner).AuthenticateCertificate(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, "edge", principal.UserID)
	edge, err := metrics.DataPlanes(tokens{}).FindDataPlane(t.Context(), "01L")
	require.NoError(t, err)
	require.Equal(t, "01L", edge.ID)
	edges, err := metrics.DataPlanes(tokens{}).FindDataPlanesByCertificate(t.Context(), []string{"dns:edge"})
	require.NoError(t, err)
	require.Equal(t, "dns:edge", edges[0].ID)

	body := get(t, telemetry.NewHandler(registry, nil), "/metrics").Body.String()
	for _, line := range []string{
		`aikeys_session_authentications_total{result="ok"} 3`,
		`aikeys_session_authentications_total{result="refused"} 1`,
		`aikeys_session_authentications_total{result="unavailable"} 1`,
		`aikeys_session_lookups_total 3`,
	} {
		require.Contains(t, body, "\n"+line)
	}
	_, err = telemetry.NewSessionMetrics(registry)
	require.Error(t, err, "two of them would count twice")
}
