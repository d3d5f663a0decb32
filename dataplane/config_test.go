package dataplane_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
)

func TestNewReportsEveryInvalidSetting(t *testing.T) {
	_, err := dataplane.New(dataplane.Config{
		ControlPlane: "ftp://x", CacheSize: -1, MaxStale: time.Hour + 1, NegativeTTL: -1, MaxAge: -1, FetchTimeout: -1,
	})
	for _, field := range []string{
		"ControlPlane", "Token", "CacheSize", "MaxStale", "NegativeTTL", "MaxAge", "FetchTimeout",
	} {
		require.ErrorContains(t, err, field)
	}
	registry := prometheus.NewRegistry()
	cfg := dataplane.Config{ControlPlane: "http://127.0.0.1:1", Token: func() string { return "" }, Metrics: registry}
	_, err = dataplane.New(cfg)
	require.NoError(t, err)
	_, err = dataplane.New(cfg)
	require.Error(t, err, "metrics of two resolvers in one registry")
}
