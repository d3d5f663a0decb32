package feed_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed"
)

func TestMetricsRegisterOnce(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	_, err := feed.New(feed.Config{Metrics: registry})
	require.NoError(t, err)
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 2, "gauges; counters come with what they count")
	_, err = feed.New(feed.Config{Metrics: registry})
	require.Error(t, err)
}
