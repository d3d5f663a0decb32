package dataplane_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := dataplanetest.NewEnv(t, maxStale(time.Minute), func(cfg *dataplane.Config) { cfg.Metrics = registry })
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)                     // fetched
	s.Serves(forNobody, id)                     // hit
	s.Refuses(forAlice, dataplane.ErrNotMember) // refused
	s.Refuses(forAlice, dataplane.ErrNotMember) // negative
	s.LoseLease()
	s.SetFault(dataplanetest.Unavailable)
	s.Serves(forNobody, id)                        // stale
	s.Refuses(forCaller, dataplane.ErrUnavailable) // unavailable
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
		p + "limited_total requests_per_minute": 0, p + "limited_total requests_per_day": 0, p + "limited_total concurrent": 0,
		p + "events_total key.registered": 1, p + "events_total policy.set": 1, p + "fetches_discarded_total": 0, p + "usage_lost_total": 0,
	}, values)
}
