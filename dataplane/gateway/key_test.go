package gateway_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
)

// newKey has a real resolver fetch a key: nobody else can make one. What it fetches from says what it is told to.
func newKey(t testing.TB, provider string, style dataplane.AuthStyle, baseURL, secret string) *dataplane.Key {
	t.Helper()
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"key_id": keyID, "version": 1, "customer_id": "acme", "project_id": "chat", "provider": provider,
			"scope": "project", "reason": "project_key", "secret": secret, "base_url": baseURL, "auth_style": style,
			"as_of": "1:1:", "caller": map[string]any{"user_id": "alice"},
		})
	}))
	t.Cleanup(control.Close)
	resolver, err := dataplane.New(dataplane.Config{ControlPlane: control.URL, Token: func() string { return "dp_test" }})
	require.NoError(t, err)
	key, err := resolver.Resolve(t.Context(), dataplane.ForCaller(callersKey, provider))
	require.NoError(t, err)
	return key
}
