package main

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

// streaming returns the process that has the only stream, and another process.
func (s *scene) streaming() (with, without *replica) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		with, without = nil, nil
		for i := range s.addresses() {
			if r := s.at(i); r.streams() {
				with = r
			} else {
				without = r
			}
		}
		return with != nil && without != nil
	}, patience, 10*time.Millisecond, "nobody has the stream")
	return with, without
}

// A replica is killed right after another has answered a revocation; in one case before it could send the event to its data
// planes. They resume at the remaining replicas and miss no event.
func TestReplicaKilledWithEventsInFlight(t *testing.T) {
	t.Parallel()
	for _, frozen := range []bool{false, true} {
		t.Run(fmt.Sprintf("frozen before %v", frozen), func(t *testing.T) {
			s := newScene(t, modelstest.Postgres(t), 3)
			_, planes := s.planes(0)
			p := planes[0]
			with, without := s.streaming()
			owner := s.owner(without)
			began := time.Now()
			if frozen {
				require.NoError(t, with.cmd.Process.Signal(syscall.SIGSTOP))
			}
			revoked := owner.revoke(t, s.newest, "0s")
			killed := time.Now()
			s.end(with, syscall.SIGKILL)
			require.Equal(t, 1, revoked.DataPlanes)
			complete := owner.revoke(t, s.newest, "10s")
			require.Equal(t, "complete", complete.State)
			t.Logf("the receipt was complete after %v", complete.answered.Sub(revoked.answered).Round(time.Millisecond))
			p.awaitKey(s.older)
			require.Eventually(t, func() bool { return p.resolver.Status().Connected }, patience, 5*time.Millisecond)
			p.requireNone(s.newest, revoked.answered.Add(lease+margin), revoked.answered)
			p.requireNone(s.newest, complete.answered, revoked.answered)
			// The stream is healthy again: another replica sends the next event at once.
			last := owner.revoke(t, s.older, "10s")
			p.requireServed(began, last.sent, window{killed.Add(-margin), killed.Add(back)})
			require.Equal(t, "complete", last.State)
			p.awaitStatus(http.StatusForbidden)
			p.requireRefused(last.answered, time.Now())
		})
	}
}

// The control plane is stopped and started again. A gateway with a grace refuses no request, and one without refuses requests
// only while the control plane is down.
func TestControlPlaneRestart(t *testing.T) {
	t.Parallel()
	s := newScene(t, sqliteURL(t), 1)
	_, planes := s.planes(0, 5*time.Second)
	began := time.Now()
	s.end(s.at(0), syscall.SIGTERM)
	stopped := time.Now()
	time.Sleep(1500 * time.Millisecond) // longer than a lease
	s.start()
	started := time.Now()
	t.Logf("it took %v to stop, and was away for %v", stopped.Sub(began).Round(time.Millisecond),
		started.Sub(stopped).Round(time.Millisecond))
	for _, p := range planes {
		p.awaitKey(s.newest)
	}
	time.Sleep(time.Until(started.Add(back)))
	planes[0].requireServed(began, time.Now(), window{began.Add(lease / 2), started.Add(back)})
	planes[1].requireServed(began, time.Now())
	s.requireHealthy(planes)
}

// requireHealthy revokes the newest key and checks that no plane serves it once the receipt is complete, and that no plane
// refuses a request.
func (s *scene) requireHealthy(planes []*plane) {
	s.t.Helper()
	for _, p := range planes {
		require.Eventually(s.t, func() bool { return p.resolver.Status().Leased }, patience, 5*time.Millisecond)
	}
	began := time.Now()
	revoked := s.owner(s.at(0)).revoke(s.t, s.newest, "20s")
	require.Equal(s.t, "complete", revoked.State)
	for _, p := range planes {
		p.awaitKey(s.older)
		p.requireNone(s.newest, revoked.answered, revoked.sent)
		p.requireServed(began, time.Now())
	}
}

// A killed gateway starts again with an empty cache and fetches keys. A gateway that starts without a control plane refuses
// requests until it can reach one.
func TestGatewayRestart(t *testing.T) {
	t.Parallel()
	s := newScene(t, sqliteURL(t), 1)
	l := s.link()
	environ := []string{
		"AIKEYS_GATEWAY_LISTEN=127.0.0.1:0", "AIKEYS_GATEWAY_OPS_LISTEN=127.0.0.1:0", "AIKEYS_GATEWAY_MAX_STALE=5s",
		"AIKEYS_GATEWAY_CONTROL_PLANE=" + l.url, "AIKEYS_GATEWAY_TOKEN_FILE=" + tokenFile(t, s.edge()),
		"AIKEYS_GATEWAY_UPSTREAM=openai=" + s.provider.URL + "/v1",
	}
	cmd, first := launchGateway(t, programPath(t, "aikeys-gateway"), environ)
	before := check(t, "the first", first.url, s.alice, pace)
	before.awaitKey(s.newest)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	before.stop()
	revoked := s.owner(s.at(0)).revoke(t, s.newest, "0s")
	require.Equal(t, "pending", revoked.State, "what was killed might have been cut off, and serve")

	began := time.Now()
	_, second := launchGateway(t, programPath(t, "aikeys-gateway"), environ)
	ready := time.Now()
	after := check(t, "the second", second.url, s.alice, pace)
	after.awaitKey(s.older)
	after.requireServed(ready, time.Now())
	after.requireNone(s.newest, revoked.answered, revoked.answered)
	t.Logf("it was ready after %v", ready.Sub(began).Round(time.Millisecond))
	awaitComplete(t, s.owner(s.at(0)), s.newest, *revoked.CompleteBy)

	l.cut(true)
	third := startGateway(t, environ)
	alone := check(t, "the third", third.url, s.alice, pace)
	alone.awaitStatus(http.StatusServiceUnavailable)
	require.Equal(t, http.StatusServiceUnavailable, third.readyz().status)
	alone.requireRefused(time.Time{}, time.Now())
	l.up()
	restored := time.Now()
	alone.awaitKey(s.older)
	third.awaitReady()
	time.Sleep(time.Until(restored.Add(back)))
	alone.awaitKey(s.older)
	alone.requireServed(restored, time.Now(), window{restored, restored.Add(back)})
	alone.stop()
	require.Equal(t, exitOK, third.end())
}
