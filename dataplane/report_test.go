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

func TestRefusedKeyIsReportedSoon(t *testing.T) {
	s, id := newCachedEnv(t, dataplane.WithIntervals(0, time.Hour, 0, 0))
	key, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	for range 100 {
		s.R.Report(key, http.StatusOK)
	}
	s.Clock.Advance(500 * time.Millisecond)
	s.R.Report(key, http.StatusBadGateway) // says nothing about the key
	s.R.Report(key, http.StatusUnauthorized)
	dataplanetest.Eventually(t, "a report", func() bool { return len(s.Reports()) > 0 })
	used, failed, status := 500, 0, http.StatusUnauthorized
	require.Equal(t, []gen.KeyReport{
		{KeyID: id, UsedMsAgo: &used, FailedMsAgo: &failed, FailureStatus: &status, FailureReason: new("rejected"), FailedVersion: new(1)},
	}, s.Reports())
}

func TestReportsNameTheCaller(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	r.Report(&dataplane.Key{ID: "refused", Caller: &dataplane.Caller{UserID: "bob", TokenID: "t"}}, http.StatusUnauthorized)
	r.Report(&dataplane.Key{ID: "refused", Caller: &dataplane.Caller{UserID: "alice"}}, http.StatusOK)
	r.ReportExposed(&dataplane.Key{ID: "exposed", Caller: &dataplane.Caller{UserID: "alice"}})
	r.ReportExposed(&dataplane.Key{ID: "nobody's"})
	r.ReportExposed(nil)
	stop := dataplanetest.Run(t, r)
	stop()
	reports := map[string]gen.KeyReport{}
	for _, report := range cp.Reports() {
		reports[report.KeyID] = report
	}
	require.Len(t, reports, 3)
	require.Equal(t, &gen.ReportedCaller{UserID: "bob", TokenID: new("t")}, reports["refused"].FailedFor)
	require.Nil(t, reports["refused"].ExposedMsAgo)
	require.NotNil(t, reports["exposed"].ExposedMsAgo)
	require.Equal(t, &gen.ReportedCaller{UserID: "alice"}, reports["exposed"].ExposedFor)
	require.Nil(t, reports["exposed"].UsedMsAgo, "it says nothing of how the key fares")
	require.NotNil(t, reports["nobody's"].ExposedMsAgo)
	require.Nil(t, reports["nobody's"].ExposedFor)
}

// The provider's rules come with the key. They decide which answers are the key's failures.
func TestAnswersAreJudgedByTheProvidersRules(t *testing.T) {
	answers := []gen.AnswerRule{
		{Status: 400, At: new("error.reason"), Is: new("KEY"), Means: "rejected"},
		{Status: 429, At: new("error.type"), Begins: new("insufficient"), Means: "quota_exhausted"},
		{Status: 403, At: new("error.code"), Means: "unrelated"},
		{Status: 404, Means: "of a later version"},
	}
	for _, c := range []struct {
		name   string
		status int
		body   string
		reason string // the reason of the failure; "used" and "" mean no failure
	}{
		{"a key that is not valid", 400, `{"error": {"reason": "KEY"}}`, "rejected"},
		{"a bad request", 400, `{"error": {"reason": "OTHER"}}`, ""},
		{"no balance", 429, `{"error": {"type": "insufficient_quota"}}`, "quota_exhausted"},
		{"too many requests", 429, `{"error": {"type": "rate"}}`, "used"},
		{"a model that is not for the key", 403, `{"error": {"code": "model"}}`, ""},
		{"what this version does not know", 404, "", ""},
		{"no payment", 402, "", "quota_exhausted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cp := dataplanetest.NewControlPlane(t)
			cp.RegisterKey(dataplanetest.Key{Answers: answers})
			r, err := dataplane.New(cp.Config())
			require.NoError(t, err)
			stop := dataplanetest.Run(t, r)
			key, err := r.Resolve(t.Context(), forNobody)
			require.NoError(t, err)
			for range 2 { // two users
				r.ReportAnswer(key, c.status, []byte(c.body))
			}
			stop()
			reason := ""
			for _, report := range cp.Reports() {
				switch {
				case report.FailureReason != nil:
					reason = *report.FailureReason
				case report.UsedMsAgo != nil:
					reason = "used"
				}
			}
			require.Equal(t, c.reason, reason)
		})
	}
}

func TestOneCallersForbiddenIsNoRefusal(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	answer := func(keyID, user string, status int) {
		r.Report(&dataplane.Key{ID: keyID, Caller: &dataplane.Caller{UserID: user}}, status)
	}
	answer("one", "bob", http.StatusForbidden)
	answer("one", "bob", http.StatusForbidden)
	answer("cleared", "bob", http.StatusForbidden)
	answer("cleared", "alice", http.StatusOK)
	answer("cleared", "alice", http.StatusForbidden)
	answer("two", "bob", http.StatusForbidden)
	answer("two", "alice", http.StatusForbidden)
	stop := dataplanetest.Run(t, r)
	stop()
	refused := map[string]bool{}
	for _, report := range cp.Reports() {
		refused[report.KeyID] = report.FailedMsAgo != nil
	}
	require.Equal(t, map[string]bool{"cleared": false, "two": true}, refused)
}

func TestReportsAreBatchedAndSentAtTheEnd(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	stop := dataplanetest.Run(t, r)
	for i := range 1200 {
		r.Report(&dataplane.Key{ID: fmt.Sprintf("byok_%026d", i)}, http.StatusTooManyRequests)
	}
	stop()
	require.Len(t, cp.Reports(), 1200)
	require.Equal(t, 3, cp.Count(dataplanetest.Report))
	for _, report := range cp.Reports() {
		require.NotNil(t, report.UsedMsAgo)
		require.Nil(t, report.FailedMsAgo)
	}
}

func TestFailedReportsAreKept(t *testing.T) {
	s, id := newCachedEnv(t, fast)
	key, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	s.SetFault(dataplanetest.Hanging, dataplanetest.Report)
	s.R.Report(key, http.StatusUnauthorized)
	dataplanetest.Eventually(t, "an attempt", func() bool { return s.Count(dataplanetest.Report) > 0 })
	for i := range 20_000 {
		s.R.Report(&dataplane.Key{ID: fmt.Sprint(i)}, http.StatusOK)
	}
	require.LessOrEqual(t, dataplane.SizesOf(s.R).Reports, 10_000)
	s.Fetches(0, func() { s.Serves(forNobody, id) })
	s.SetFault(dataplanetest.Healthy)
	s.R.Report(key, http.StatusUnauthorized)
	dataplanetest.Eventually(t, "a report", func() bool { return len(s.Reports()) > 0 })
}

func TestReportsOfNothingAreIgnored(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.R.Report(nil, http.StatusOK)
	s.R.Report(&dataplane.Key{}, http.StatusOK)
	s.R.Report(&dataplane.Key{ID: "x"}, http.StatusInternalServerError)
	s.R.Report(&dataplane.Key{ID: "x"}, 0)
	require.Zero(t, dataplane.SizesOf(s.R).Reports)
}

func keyOf(i int, user string) *dataplane.Key {
	key := &dataplane.Key{ID: fmt.Sprintf("byok_%026d", i)}
	if user != "" {
		key.Caller = &dataplane.Caller{UserID: user}
	}
	return key
}

// quickUsage sends counts every millisecond.
var quickUsage = dataplane.WithIntervals(0, 0, time.Millisecond, 0)

// awaitAttempt waits until two more batches have arrived. The first may have been in progress when awaitAttempt was
// called; the second was sent after the call.
func awaitAttempt(t *testing.T, s *dataplanetest.Env) {
	t.Helper()
	sent := s.Count(dataplanetest.Usage)
	dataplanetest.Eventually(t, "attempts", func() bool { return s.Count(dataplanetest.Usage) > sent+1 })
}

// lostUsage returns how many requests are missing in the usage according to the metric.
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
	r.CountUse(keyOf(1, "alice"), false) // has a count already
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
