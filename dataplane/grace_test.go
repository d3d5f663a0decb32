package dataplane_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// It says once why it gets no lease, whatever else failed before, asks for each request meanwhile, and goes on by itself when
// the limit is raised.
func TestAMaxStaleOverTheControlPlanesLimitIsToldOnceAndTriedOn(t *testing.T) {
	t.Parallel()
	log := new(syncBuffer)
	cp := dataplanetest.NewControlPlane(t)
	cp.LimitMaxStale(time.Minute)
	cp.SetFault(dataplanetest.Unavailable, dataplanetest.Events)
	id := cp.RegisterKey(dataplanetest.Key{})
	r, err := dataplane.New(dataplane.Config{
		ControlPlane: cp.URL(), Token: func() string { return dataplanetest.Token }, MaxStale: time.Hour,
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	require.NoError(t, err)
	dataplanetest.Run(t, r)
	eventually(t, "another failure is told", func() bool { return strings.Contains(log.String(), "no stream of events can be opened") })
	require.False(t, r.Status().TooStale)
	cp.SetFault(dataplanetest.Healthy, dataplanetest.Events)

	eventually(t, "the refusal", func() bool { return r.Status().TooStale })
	asked := cp.Count(dataplanetest.Events)
	eventually(t, "another try", func() bool { return cp.Count(dataplanetest.Events) > asked })
	key, err := r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	require.False(t, r.Status().Leased)
	cp.LimitMaxStale(time.Hour)
	eventually(t, "a lease", func() bool { return r.Status().Leased })
	require.False(t, r.Status().TooStale)

	told := log.String()
	require.Equal(t, 1, strings.Count(told, "refuses this data plane's max-stale"), told)
	require.Contains(t, told, "it refuses a max-stale of 1h0m0s: max_stale_ms must be at most 60000, the limit of this service; "+
		"lower it here, or raise the control plane's --max-stale-limit")
	require.Contains(t, told, "the stream of events is open again")
}

// Any other 400, and one that goes on for ever, is no word about the grace.
func TestAnother400SaysNothingOfTheGrace(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"another field": `{"errors":[{"field":"previous_session_id","message":"must be an id"}]}`, "no document": "<html>", "nothing": "",
		"too much": `{"errors":[{"field":"max_stale_ms","message":"` + strings.Repeat("x", 300<<10),
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				w.WriteHeader(http.StatusBadRequest)
				_, _ = w.Write([]byte(body))
			}))
			defer server.Close()
			r, err := dataplane.New(dataplane.Config{ControlPlane: server.URL, Token: func() string { return dataplanetest.Token }})
			require.NoError(t, err)
			dataplanetest.Run(t, r)
			eventually(t, "two tries", func() bool { return asked.Load() > 1 })
			require.False(t, r.Status().TooStale)
		})
	}
}
