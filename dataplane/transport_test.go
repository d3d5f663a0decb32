package dataplane_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestHTTPClientFromConfig(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	id := cp.RegisterKey(dataplanetest.Key{})
	client := &http.Client{Transport: &http.Transport{}, Timeout: 50 * time.Millisecond}
	r := cp.Resolver(t, func(cfg *dataplane.Config) { cfg.HTTPClient = client })
	key, err := r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	timeout, ok := dataplane.StreamTimeout(r)
	require.True(t, ok)
	require.Zero(t, timeout, "the client's timeout does not apply to the stream")
	client.CloseIdleConnections()
}

func TestClientCertificateNeedsHTTPS(t *testing.T) {
	for url, ok := range map[string]bool{"https://127.0.0.1:1": true, "http://127.0.0.1:1": false} {
		_, err := dataplane.New(dataplane.Config{ControlPlane: url, HTTPClient: &http.Client{}})
		require.Equal(t, ok, err == nil, url)
	}
	_, err := dataplane.New(dataplane.Config{ControlPlane: "https://127.0.0.1:1"})
	require.ErrorContains(t, err, "Token: is required")

	asked := make(chan http.Header, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header }))
	defer server.Close()
	r, err := dataplane.New(dataplane.Config{ControlPlane: server.URL, HTTPClient: server.Client()})
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrUnavailable)
	require.NotContains(t, <-asked, "Authorization")
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	cp.RegisterKey(dataplanetest.Key{})
	server := httptest.NewServer(http.RedirectHandler(cp.URL()+"/v1/fetch", http.StatusTemporaryRedirect))
	defer server.Close()
	cfg := cp.Config()
	cfg.ControlPlane = server.URL
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrUnavailable)
	require.Zero(t, cp.Count(dataplanetest.Fetch))
}
