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
	s, id := newCachedEnv(t, dataplane.WithIntervals(0, time.Hour, 0, 0))
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

// The provider's rules come with the key. They decide what is its failure.
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
		reason string // of the failure; "used" and "" are none
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
