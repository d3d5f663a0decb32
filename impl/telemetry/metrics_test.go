package telemetry_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/telemetry"
)

func TestMetricsShowTheDatabasesConnections(t *testing.T) {
	stats := telemetry.PoolStats{InUse: 3, Idle: 2, Max: 16, Waits: 41}
	registry := telemetry.NewRegistry(telemetry.NewPoolCollector(func() telemetry.PoolStats { return stats }))
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
