package main

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

// requireFaultBound revokes a key during a fault of 2 s that cuts off the data planes, and checks that each stops serving the key
// when its lease and grace end. The second plane's grace is longer than the fault.
func (s *scene) requireFaultBound(planes []*plane, key string, begin, end func()) {
	s.t.Helper()
	began := time.Now()
	begin()
	var covered []time.Time
	for _, p := range planes {
		covered = append(covered, p.covered())
	}
	revoked := s.owner(s.at(len(s.addresses())-1)).revoke(s.t, key, "0s")
	time.Sleep(time.Until(began.Add(2 * time.Second))) // the fault
	end()
	ended := time.Now()
	time.Sleep(time.Until(ended.Add(back + 200*time.Millisecond)))
	for i, p := range planes {
		p.awaitKey(s.newest)
		p.requireNone(key, revoked.answered.Add(p.bound()+margin), revoked.answered)
		p.requireServed(began, time.Now(), window{covered[i], ended.Add(back)})
	}
	planes[0].requireRefused(covered[0].Add(margin), ended)
	planes[1].requireServed(began, time.Now())
}

// A process hangs with all its connections open and later continues as if no time had passed. Its delayed messages are too old
// to extend a lease.
func TestControlPlaneThatHangs(t *testing.T) {
	t.Parallel()
	s := newScene(t, modelstest.Postgres(t), 2)
	hanging := s.at(0)
	var planes []*plane
	for _, maxStale := range []time.Duration{0, 5 * time.Second} {
		planes = append(planes, s.plane(&link{url: hanging.dataplane}, maxStale))
	}
	second := s.add(false)
	for _, p := range planes {
		p.awaitKey(second)
	}
	t.Cleanup(func() { _ = hanging.cmd.Process.Signal(syscall.SIGCONT) })
	s.requireFaultBound(planes, second, func() {
		require.NoError(t, hanging.cmd.Process.Signal(syscall.SIGSTOP))
	}, func() {
		require.NoError(t, hanging.cmd.Process.Signal(syscall.SIGCONT))
	})
	s.requireHealthy(planes)
}
