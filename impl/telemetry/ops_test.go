package telemetry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/telemetry"
)

func get(t *testing.T, handler http.Handler, path string) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
	return recorder
}

func fixed(state telemetry.State) telemetry.Probe {
	return func(context.Context) telemetry.State { return state }
}

func TestReadiness(t *testing.T) {
	cases := map[string]struct {
		database, keyset telemetry.State
		status           int
	}{
		"all well":           {telemetry.OK, telemetry.OK, http.StatusOK},
		"first is not":       {telemetry.Unavailable, telemetry.OK, http.StatusServiceUnavailable},
		"last is not":        {telemetry.OK, telemetry.Pending, http.StatusServiceUnavailable},
		"a word of no check": {"", telemetry.OK, http.StatusServiceUnavailable},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			handler := telemetry.NewHandler(prometheus.NewRegistry(), []telemetry.Check{
				{Name: "database", Probe: fixed(tc.database)}, {Name: "keyset", Probe: fixed(tc.keyset)},
			})
			got := get(t, handler, "/readyz")
			require.Equal(t, tc.status, got.Code)
			require.Equal(t, "application/json", got.Header().Get("Content-Type"))
			var body map[string]any
			require.NoError(t, json.Unmarshal(got.Body.Bytes(), &body))
			require.Equal(t, map[string]any{
				"ready":  tc.status == http.StatusOK,
				"checks": map[string]any{"database": string(tc.database), "keyset": string(tc.keyset)},
			}, body)
			require.Equal(t, http.StatusOK, get(t, handler, "/healthz").Code, "it lives whether it is ready or not")
		})
	}
}

func TestReadinessMayFail(t *testing.T) {
	for mayFail, status := range map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable} {
		handler := telemetry.NewHandler(prometheus.NewRegistry(), []telemetry.Check{
			{Name: "keyset", Probe: fixed(telemetry.Unavailable), MayFail: func() bool { return mayFail }},
		})
		got := get(t, handler, "/readyz")
		require.Equal(t, status, got.Code)
		require.JSONEq(t, fmt.Sprintf(`{"ready":%t,"checks":{"keyset":"unavailable"}}`, mayFail), got.Body.String())
	}
}

func TestHandlerServesNothingElse(t *testing.T) {
	handler := telemetry.NewHandler(prometheus.NewRegistry(), nil)
	require.Equal(t, http.StatusNotFound, get(t, handler, "/debug/pprof/").Code)
	require.Equal(t, http.StatusNotFound, get(t, handler, "/").Code)
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/readyz", http.NoBody))
	require.Equal(t, http.StatusMethodNotAllowed, recorder.Code)
}

func TestCachedAsksOncePerTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		probe := telemetry.Cached(func(context.Context) telemetry.State {
			asked.Add(1)
			return telemetry.OK
		}, time.Second, time.Hour)
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() { _ = probe(t.Context()) })
		}
		group.Wait()
		time.Sleep(time.Hour - time.Nanosecond)
		probe(t.Context())
		require.EqualValues(t, 1, asked.Load())
		time.Sleep(time.Nanosecond)
		probe(t.Context())
		require.EqualValues(t, 2, asked.Load())
	})
}

func TestCachedTimeout(t *testing.T) {
	var deadline time.Duration
	probe := telemetry.Cached(func(ctx context.Context) telemetry.State {
		if ctx.Err() != nil {
			return telemetry.Unavailable
		}
		end, _ := ctx.Deadline()
		deadline = time.Until(end)
		return telemetry.OK
	}, 7*time.Second, time.Hour)
	gone, leave := context.WithCancel(t.Context())
	leave()
	require.Equal(t, telemetry.OK, probe(gone), "a prober that leaves must not make the service look down to the others")
	require.InDelta(t, 7, deadline.Seconds(), 1)
}

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
