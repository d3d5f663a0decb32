package dataplane_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

func keyOf(i int, user string) *dataplane.Key {
	key := &dataplane.Key{ID: fmt.Sprintf("byok_%026d", i)}
	if user != "" {
		key.Caller = &dataplane.Caller{UserID: user}
	}
	return key
}

// quickUsage sends counts every millisecond.
var quickUsage = dataplane.WithIntervals(0, 0, time.Millisecond, 0)

// awaitAttempt waits until a batch is sent that was made from now on: the one after that which may be under way.
func awaitAttempt(t *testing.T, s *dataplanetest.Env) {
	t.Helper()
	sent := s.Count(dataplanetest.Usage)
	dataplanetest.Eventually(t, "attempts", func() bool { return s.Count(dataplanetest.Usage) > sent+1 })
}

// lostUsage returns how many requests are missing in the usage, as the metric has it.
func lostUsage(t *testing.T, registry *prometheus.Registry) (lost int) {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "aikeys_dataplane_usage_lost_total" {
			lost = int(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	return lost
}

func TestUsageIsCountedByKeyAndUser(t *testing.T) {
	clock, cp := new(dataplanetest.Clock), dataplanetest.NewControlPlane(t)
	cfg := cp.Config()
	cfg.Clock = clock
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	stop := dataplanetest.Run(t, r)
	for _, status := range []int{200, 401, 403, 404, 429, 500, 101, 402} {
		r.Report(keyOf(1, "alice"), status)
	}
	r.CountUse(keyOf(1, "bob"), true)
	r.CountUse(keyOf(1, ""), false)
	r.CountUse(keyOf(2, "alice"), false)
	r.CountUse(nil, false)
	r.CountUse(&dataplane.Key{}, false)
	clock.Advance(1500 * time.Millisecond)
	stop()
	batches := cp.Usage()
	require.Len(t, batches, 1)
	require.EqualValues(t, 1, batches[0].Batch)
	count := func(i int, user *string, requests, refusals int64) gen.UsageCount {
		return gen.UsageCount{KeyID: keyOf(i, "").ID, UserID: user, Requests: requests, Refusals: refusals, LastUsedMsAgo: 1500}
	}
	require.ElementsMatch(t, []gen.UsageCount{
		count(1, new("alice"), 8, 4), count(1, new("bob"), 1, 1), count(1, nil, 1, 0), count(2, new("alice"), 1, 0),
	}, batches[0].Counts)
}

func TestUsageThatWaitsIsSentByTheHour(t *testing.T) {
	s := dataplanetest.NewEnv(t, quickUsage)
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Usage)
	for range 3 {
		s.R.CountUse(keyOf(1, "alice"), false)
		awaitAttempt(t, s)
		s.Clock.Advance(time.Hour)
	}
	awaitAttempt(t, s)
	s.SetFault(dataplanetest.Healthy)
	ages := func() (ms []int) {
		for _, batch := range s.Usage() {
			for _, c := range batch.Counts {
				ms = append(ms, c.LastUsedMsAgo)
			}
		}
		return ms
	}
	dataplanetest.Eventually(t, "all", func() bool { return len(ages()) == 3 })
	hour := int(time.Hour.Milliseconds())
	require.ElementsMatch(t, []int{hour, 2 * hour, 3 * hour}, ages())
}

func TestABatchGoesUnchangedUntilItIsStored(t *testing.T) {
	s := dataplanetest.NewEnv(t, quickUsage)
	s.LoseUsageAnswers(true)
	s.R.CountUse(keyOf(1, "alice"), false)
	dataplanetest.Eventually(t, "the batch, twice", func() bool { return len(s.Usage()) >= 2 })
	for range 5 {
		s.R.CountUse(keyOf(1, "alice"), true)
	}
	s.LoseUsageAnswers(false)
	stored := func() map[int64]gen.UsageReport { // as the control plane stores them: each number once
		by := map[int64]gen.UsageReport{}
		for _, b := range s.Usage() {
			if first, ok := by[b.Batch]; ok {
				require.Equal(t, first, b)
			}
			by[b.Batch] = b
		}
		return by
	}
	dataplanetest.Eventually(t, "the next batch", func() bool { return len(stored()) == 2 })
	require.EqualValues(t, 1, stored()[1].Counts[0].Requests)
	require.EqualValues(t, 5, stored()[2].Counts[0].Requests)
}

func TestUsageThatWaitsIsBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	cfg := dataplanetest.NewControlPlane(t).Config()
	cfg.Metrics = registry
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	for i := range 50_010 {
		r.CountUse(keyOf(i, "alice"), false)
	}
	r.CountUse(keyOf(1, "alice"), false) // is counted already
	require.Equal(t, 50_000, dataplane.SizesOf(r).Usage)
	require.Equal(t, 10, lostUsage(t, registry))
}

func TestUsageIsSentAtTheEnd(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	for i := range 1001 {
		r.CountUse(keyOf(i%1000, "alice"), false)
	}
	stop := dataplanetest.Run(t, r)
	stop()
	counted := map[string]int64{}
	for _, b := range cp.Usage() {
		require.LessOrEqual(t, len(b.Counts), 250)
		for _, c := range b.Counts {
			counted[c.KeyID] += c.Requests
		}
	}
	require.Len(t, counted, 1000)
	require.EqualValues(t, 2, counted[keyOf(0, "").ID])
}

func TestUsageThatTheControlPlaneRejectsIsNotRepeated(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := dataplanetest.NewEnv(t, quickUsage, func(cfg *dataplane.Config) { cfg.Metrics = registry })
	for _, fault := range []dataplanetest.Fault{dataplanetest.TooManyRequests, dataplanetest.InternalError, dataplanetest.CustomerNotServed} {
		s.SetFault(fault, dataplanetest.Usage)
		s.R.CountUse(keyOf(1, "alice"), false)
		awaitAttempt(t, s)
	}
	s.SetFault(dataplanetest.Invalid, dataplanetest.Usage)
	dataplanetest.Eventually(t, "the end", func() bool { return lostUsage(t, registry) == 3 })
	s.SetFault(dataplanetest.Healthy)
	s.R.CountUse(keyOf(2, "alice"), false)
	dataplanetest.Eventually(t, "the next batch", func() bool { return len(s.Usage()) > 0 })
	require.Equal(t, keyOf(2, "").ID, s.Usage()[0].Counts[0].KeyID)
}

func TestUsageOfADayAgoIsNotSent(t *testing.T) {
	s := dataplanetest.NewEnv(t, quickUsage)
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Usage)
	s.R.Report(keyOf(1, "alice"), http.StatusOK)
	awaitAttempt(t, s)
	s.Clock.Advance(24*time.Hour + time.Second)
	s.R.Report(keyOf(2, "alice"), http.StatusOK)
	awaitAttempt(t, s)
	s.SetFault(dataplanetest.Healthy)
	dataplanetest.Eventually(t, "the next batch", func() bool { return len(s.Usage()) > 0 })
	require.Len(t, s.Usage()[0].Counts, 1)
	require.Equal(t, keyOf(2, "").ID, s.Usage()[0].Counts[0].KeyID)
}
