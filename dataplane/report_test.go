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

func TestARefusedKeyIsReportedSoonAndWithItsLastUse(t *testing.T) {
	s, id := cached(t)
	key, err := s.resolve(forNobody)
	require.NoError(t, err)
	for range 100 {
		s.r.Report(key, http.StatusOK)
	}
	s.clock.Advance(500 * time.Millisecond)
	s.r.Report(key, http.StatusBadGateway) // says nothing of the key
	s.r.Report(key, http.StatusUnauthorized)
	begin := time.Now()
	eventually(t, "a report", func() bool { return len(s.Reports()) > 0 })
	require.Less(t, time.Since(begin), 3*time.Second)
	used, failed, status := 500, 0, http.StatusUnauthorized
	require.Equal(t, []gen.KeyReport{
		{KeyID: id, UsedMsAgo: &used, FailedMsAgo: &failed, FailureStatus: &status},
	}, s.Reports())
}

func TestReportsAreBatchedAndSentOnTheWayOut(t *testing.T) {
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

func TestReportsThatFailAreKeptAndBlockNobody(t *testing.T) {
	s, id := cached(t, fast)
	key, err := s.resolve(forNobody)
	require.NoError(t, err)
	s.SetFault(dataplanetest.Hanging, dataplanetest.Report)
	s.r.Report(key, http.StatusForbidden)
	eventually(t, "an attempt", func() bool { return s.Count(dataplanetest.Report) > 0 })
	for i := range 20_000 {
		s.r.Report(&dataplane.Key{ID: fmt.Sprint(i)}, http.StatusOK)
	}
	require.LessOrEqual(t, dataplane.Waiting(s.r), 10_000)
	s.fetches(0, func() { s.serves(forNobody, id) })
	s.SetFault(dataplanetest.Healthy)
	s.r.Report(key, http.StatusForbidden)
	eventually(t, "a report", func() bool { return len(s.Reports()) > 0 })
}

func TestAReportOfNothingIsNone(t *testing.T) {
	s := newScene(t)
	s.r.Report(nil, http.StatusOK)
	s.r.Report(&dataplane.Key{}, http.StatusOK)
	s.r.Report(&dataplane.Key{ID: "x"}, http.StatusInternalServerError)
	s.r.Report(&dataplane.Key{ID: "x"}, 0)
	require.Zero(t, dataplane.Waiting(s.r))
}
