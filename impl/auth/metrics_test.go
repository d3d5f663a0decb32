package auth_test

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
)

// countedSource answers with one error, and counts drops.
type countedSource struct {
	err     error
	dropped []string
}

func (s *countedSource) Authenticate(context.Context, string) (auth.Principal, error) {
	return auth.Principal{UserID: "alice"}, s.err
}

func (s *countedSource) AuthenticateCertificate(context.Context, []string) (auth.Principal, error) {
	return auth.Principal{UserID: "edge"}, s.err
}

func (s *countedSource) Drop(tokenID string) { s.dropped = append(s.dropped, tokenID) }

type countedRows struct{}

func (countedRows) FindToken(_ context.Context, id string) (models.Token, error) {
	return models.Token{ID: id}, models.ErrNotFound
}

func (countedRows) FindDataPlane(_ context.Context, id string) (models.DataPlane, error) {
	return models.DataPlane{ID: id}, nil
}

func (countedRows) FindDataPlanesByCertificate(_ context.Context, names []string) ([]models.DataPlane, error) {
	return []models.DataPlane{{ID: names[0]}}, nil
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics, err := auth.NewMetrics(registry)
	require.NoError(t, err)
	inner := &countedSource{}
	counted := metrics.Sessions(inner)
	for _, inner.err = range []error{nil, nil, auth.ErrUnauthenticated, models.ErrUnavailable} {
		principal, err := counted.Authenticate(t.Context(), "")
		require.Equal(t, "alice", principal.UserID)
		require.Equal(t, inner.err, err)
	}
	counted.Drop("01J")
	require.Equal(t, []string{"01J"}, inner.dropped)

	token, err := metrics.Tokens(countedRows{}).FindToken(t.Context(), "01K")
	require.Equal(t, "01K", token.ID)
	require.ErrorIs(t, err, models.ErrNotFound)

	inner.err = nil
	principal, err := metrics.CertificateSessions(inner).AuthenticateCertificate(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, "edge", principal.UserID)
	edge, err := metrics.DataPlanes(countedRows{}).FindDataPlane(t.Context(), "01L")
	require.NoError(t, err)
	require.Equal(t, "01L", edge.ID)
	edges, err := metrics.DataPlanes(countedRows{}).FindDataPlanesByCertificate(t.Context(), []string{"dns:edge"})
	require.NoError(t, err)
	require.Equal(t, "dns:edge", edges[0].ID)

	gathered, err := registry.Gather()
	require.NoError(t, err)
	var text strings.Builder
	for _, family := range gathered {
		_, err := expfmt.MetricFamilyToText(&text, family)
		require.NoError(t, err)
	}
	for _, line := range []string{
		`aikeys_session_authentications_total{result="ok"} 3`,
		`aikeys_session_authentications_total{result="refused"} 1`,
		`aikeys_session_authentications_total{result="unavailable"} 1`,
		`aikeys_session_lookups_total 3`,
	} {
		require.Contains(t, text.String(), "\n"+line)
	}
	_, err = auth.NewMetrics(registry)
	require.Error(t, err, "two of them would count twice")
}
