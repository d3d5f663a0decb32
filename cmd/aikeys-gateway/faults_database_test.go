package main

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// absence is a period without a database.
type absence struct{ began, stopped, ended time.Time }

// away stops PostgreSQL, calls during, and starts PostgreSQL again.
func away(t *testing.T, cluster *modelstest.Cluster, mode modelstest.StopMode, during func()) absence {
	t.Helper()
	a := absence{began: time.Now()}
	require.NoError(t, cluster.Stop(mode))
	a.stopped = time.Now()
	during()
	require.NoError(t, cluster.Start())
	a.ended = time.Now()
	t.Logf("the database was away for %v", a.ended.Sub(a.stopped).Round(time.Millisecond))
	return a
}

// PostgreSQL restarts, cleanly or not, or is down for 3 s. A gateway without a grace refuses requests from the end of its lease
// until the database is back; a gateway with a grace refuses none. Revocations fail while the database is down.
func TestDatabaseOutage(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	s := newScene(t, cluster.URL("postgres"), 2)
	_, planes := s.planes(0, 10*time.Second)
	for _, mode := range []modelstest.StopMode{modelstest.Immediate, modelstest.Fast} {
		s.requireOutlived(planes, away(t, cluster, mode, func() {}))
	}
	absent := away(t, cluster, modelstest.Fast, func() {
		from := time.Now()
		s.requireNoClaim()
		time.Sleep(time.Until(from.Add(3 * time.Second))) // the absence
	})
	s.requireOutlived(planes, absent)
	planes[0].requireRefused(absent.stopped.Add(lease+margin), absent.ended)
	s.requireHealthy(planes)
}

// requireOutlived waits until all planes serve again, and checks that no requests were refused beyond those that the outage
// explains.
func (s *scene) requireOutlived(planes []*plane, a absence) {
	s.t.Helper()
	for _, p := range planes {
		p.awaitKey(s.newest)
		require.Eventually(s.t, func() bool { return p.resolver.Status().Leased }, patience, 5*time.Millisecond)
	}
	time.Sleep(time.Until(a.ended.Add(back + margin)))
	planes[0].requireServed(a.began, time.Now(), window{a.began, a.ended.Add(back)})
	planes[1].requireServed(a.began, time.Now())
}

// requireNoClaim tries to revoke the newest key and checks that the revocation fails.
func (s *scene) requireNoClaim() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	wait := "0s"
	reply, err := s.owner(s.at(1)).RevokeKeyWithResponse(ctx, "-", "-", s.newest, &pub.RevokeKeyParams{Wait: &wait})
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusServiceUnavailable, reply.StatusCode(), "%s", reply.Body)
	require.NotEmpty(s.t, reply.HTTPResponse.Header.Get("Retry-After"))
}
