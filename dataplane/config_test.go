package dataplane_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/secret"
)

func TestWhatIsWrongWithAConfigurationIsToldAllAtOnce(t *testing.T) {
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

func TestAClientOfOnesOwnIsUsed(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	id := cp.RegisterKey(dataplanetest.Key{})
	client := &http.Client{Transport: &http.Transport{}, Timeout: 50 * time.Millisecond}
	r := cp.Resolver(t, func(cfg *dataplane.Config) { cfg.HTTPClient = client })
	key, err := r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	// Its timeout is not the stream's.
	before := cp.Count(dataplanetest.Events)
	time.Sleep(4 * client.Timeout)
	require.Equal(t, before, cp.Count(dataplanetest.Events))
	client.CloseIdleConnections()
}

func TestACertificateMayTakeTheTokensPlaceOverHTTPSAlone(t *testing.T) {
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

func TestAnAnswerThatIsIncompleteOrForAnotherIsNotUsed(t *testing.T) {
	good := gen.FetchResponse{
		KeyID: "byok_1", Version: 1, CustomerID: "acme", ProjectID: "chat", Provider: "openai", Scope: "project",
		Reason: "project_key", Secret: secret.New("sk"), BaseURL: "https://x", AuthStyle: "bearer", AsOf: "1:1:",
	}
	var answer gen.FetchResponse
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer server.Close()
	r, err := dataplane.New(dataplane.Config{ControlPlane: server.URL, Token: func() string { return "x" }})
	require.NoError(t, err)
	answer = good
	_, err = r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	for name, spoil := range map[string]func(){
		"another customer":   func() { answer.CustomerID = "other" },
		"another project":    func() { answer.ProjectID = "other" },
		"another provider":   func() { answer.Provider = "anthropic" },
		"no key's id":        func() { answer.KeyID = "" },
		"no secret":          func() { answer.Secret = secret.Text{} },
		"nowhere to go":      func() { answer.BaseURL = "" },
		"a position of none": func() { answer.AsOf = "later" },
		"no version":         func() { answer.Version = 0 },
	} {
		answer = good
		spoil()
		_, err := r.Resolve(t.Context(), forNobody)
		require.ErrorIs(t, err, dataplane.ErrUnavailable, name)
	}
	answer = good
	_, err = r.Resolve(t.Context(), dataplane.ByID("byok_2"))
	require.ErrorIs(t, err, dataplane.ErrUnavailable)
}

func TestARedirectIsNotFollowed(t *testing.T) {
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

func TestMetricsCountWhatHappens(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := newScene(t, maxStale(time.Minute), func(cfg *dataplane.Config) { cfg.Metrics = registry })
	id := s.register(dataplanetest.Key{})
	s.serves(forNobody, id)                     // fetched
	s.serves(forNobody, id)                     // hit
	s.refuses(forAlice, dataplane.ErrNotMember) // refused
	s.refuses(forAlice, dataplane.ErrNotMember) // negative
	s.loseLease()
	s.SetFault(dataplanetest.Unavailable)
	s.serves(forNobody, id)                        // stale
	s.refuses(forCaller, dataplane.ErrUnavailable) // unavailable
	families, err := registry.Gather()
	require.NoError(t, err)
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			samples := float64(m.GetHistogram().GetSampleCount())
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + samples
		}
	}
	const p = "aikeys_dataplane_"
	require.Equal(t, map[string]float64{
		p + "resolves_total fetched": 1, p + "resolves_total hit": 1, p + "resolves_total refused": 1,
		p + "resolves_total negative": 1, p + "resolves_total stale": 1, p + "resolves_total unavailable": 1,
		p + "fetch_duration_seconds": 3, p + "entries": 2, p + "lease_seconds": 0, p + "stream_connected": 1,
		p + "events_total key.registered": 1, p + "events_total policy.set": 1, p + "fetches_discarded_total": 0,
	}, values)
}
