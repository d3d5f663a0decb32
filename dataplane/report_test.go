package dataplane_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

func TestRefusedKeyIsReportedSoon(t *testing.T) {
	s, id := newCachedEnv(t, dataplane.WithIntervals(0, time.Hour, 0))
	key, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	for range 100 {
		s.R.Report(key, http.StatusOK)
	}
	s.Clock.Advance(500 * time.Millisecond)
	s.R.Report(key, http.StatusBadGateway) // says nothing of the key
	s.R.Report(key, http.StatusUnauthorized)
	dataplanetest.Eventually(t, "a report", func() bool { return len(s.Reports()) > 0 })
	used, failed, status := 500, 0, http.StatusUnauthorized
	require.Equal(t, []gen.KeyReport{
		{KeyID: id, UsedMsAgo: &used, FailedMsAgo: &failed, FailureStatus: &status},
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
	require.LessOrEqual(t, dataplane.Waiting(s.R), 10_000)
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
	require.Zero(t, dataplane.Waiting(s.R))
}
