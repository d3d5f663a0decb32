package lifecycle_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

func TestOpsHandler(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "lifecycle_test_total", Help: "A counter."}))
	ready := true
	ops := lifecycle.NewOpsHandler(registry, func(context.Context) (bool, any) {
		return ready, map[string]bool{"ready": ready}
	})
	get := func(path string) (status int, body string) {
		w := httptest.NewRecorder()
		ops.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w.Code, w.Body.String()
	}
	status, body := get("/readyz")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"ready":true}`, body)
	ready = false
	status, body = get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.JSONEq(t, `{"ready":false}`, body)
	status, body = get("/healthz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", body)
	_, body = get("/metrics")
	require.Contains(t, body, "lifecycle_test_total 0")
}
