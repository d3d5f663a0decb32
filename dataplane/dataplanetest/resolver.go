package dataplanetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
)

// Config returns the configuration of a Resolver of this control plane.
func (cp *ControlPlane) Config() dataplane.Config {
	return dataplane.Config{ControlPlane: cp.URL(), Token: func() string { return Token }}
}

// Resolver returns a Resolver that runs until the test ends and has its lease. The functions may change its configuration.
func (cp *ControlPlane) Resolver(t testing.TB, change ...func(*dataplane.Config)) *dataplane.Resolver {
	t.Helper()
	cfg := cp.Config()
	for _, c := range change {
		c(&cfg)
	}
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	Run(t, r)
	require.Eventually(t, func() bool { return r.Status().Leased }, eventTimeout, time.Millisecond, "no lease")
	return r
}

// Run runs a Resolver until stop or the end of the test.
func Run(t testing.TB, r *dataplane.Resolver) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(eventTimeout):
			t.Error("Run does not return")
		}
	}
	t.Cleanup(stop)
	return stop
}

// Await waits until a Resolver has acted on a transaction.
func Await(t testing.TB, r *dataplane.Resolver, tx int64) {
	t.Helper()
	require.Eventually(t, func() bool {
		at, err := position.Parse(r.Status().Position)
		return err == nil && at.Contains(tx)
	}, eventTimeout, time.Millisecond, "transaction %d has not arrived", tx)
}
