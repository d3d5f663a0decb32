package gateway_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

func TestOps(t *testing.T) {
	for ready, want := range map[bool]string{true: `{"ready":true,"state":"ok"}`, false: `{"ready":false,"state":"no_lease"}`} {
		_, word, _ := strings.Cut(strings.TrimSuffix(want, `"}`), `state":"`)
		ops := gateway.NewOps(prometheus.NewRegistry(), func(context.Context) (bool, string) { return ready, word })
		w := httptest.NewRecorder()
		ops.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		require.JSONEq(t, want, w.Body.String())
		require.Equal(t, ready, w.Code == 200)
	}
	registry := prometheus.NewRegistry()
	_, err := gateway.New(gateway.Config{Resolver: dataplanetest.Refusing(nil), Metrics: registry})
	require.NoError(t, err)
	_, err = gateway.NewForwardAuth(gateway.Config{Resolver: dataplanetest.Refusing(nil), Metrics: registry})
	require.NoError(t, err, "the faces share their metrics")
	ops := gateway.NewOps(registry, nil)
	for path, want := range map[string]string{"/healthz": "ok", "/metrics": "aikeys_gateway_requests_in_flight 0"} {
		w := httptest.NewRecorder()
		ops.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, 200, w.Code)
		require.Contains(t, w.Body.String(), want)
	}
}
