package gateway_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

func TestMetricsAreShared(t *testing.T) {
	registry := prometheus.NewRegistry()
	_, err := gateway.New(gateway.Config{Resolver: dataplanetest.Refusing(nil), Metrics: registry})
	require.NoError(t, err)
	_, err = gateway.NewForwardAuth(gateway.Config{Resolver: dataplanetest.Refusing(nil), Metrics: registry})
	require.NoError(t, err, "the proxy and forward-auth share their metrics")
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Contains(t, families[0].GetName()+families[1].GetName(), "aikeys_gateway_")
}
