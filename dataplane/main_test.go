package dataplane_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const credential = "ak_EXAMPLE_CREDENTIAL"

var (
	forAlice  = dataplane.ForUser("acme", "chat", "alice", "openai")
	forNobody = dataplane.ForUser("acme", "chat", "", "openai")
	forCaller = dataplane.ForCaller(credential, "openai")
)

// scene is a control plane whose clock stands still, and a resolver of the same time that has its lease.
type scene struct {
	*dataplanetest.ControlPlane
	t     *testing.T
	clock *dataplanetest.Clock
	r     *dataplane.Resolver
}

func newScene(t *testing.T, change ...func(*dataplane.Config)) *scene {
	t.Helper()
	clock := dataplanetest.NewClock()
	cp := dataplanetest.NewControlPlane(t, dataplanetest.WithClock(clock))
	change = append(change, func(cfg *dataplane.Config) { cfg.Clock = clock })
	return &scene{cp, t, clock, cp.Resolver(t, change...)}
}

func maxStale(d time.Duration) func(*dataplane.Config) {
	return func(cfg *dataplane.Config) { cfg.MaxStale = d }
}

// resolve returns what Resolve returns within a time that no test should need.
func (s *scene) resolve(req dataplane.Request) (*dataplane.Key, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	return s.r.Resolve(ctx, req)
}

// serves asserts that a request resolves to a key.
func (s *scene) serves(req dataplane.Request, keyID string) {
	s.t.Helper()
	key, err := s.resolve(req)
	require.NoError(s.t, err)
	require.Equal(s.t, keyID, key.ID)
}

// refuses asserts that a request resolves to an error.
func (s *scene) refuses(req dataplane.Request, target error) {
	s.t.Helper()
	key, err := s.resolve(req)
	require.ErrorIs(s.t, err, target)
	require.Nil(s.t, key)
}

// fetches asserts how many fetches an action costs.
func (s *scene) fetches(n int, action func()) {
	s.t.Helper()
	before := s.Count(dataplanetest.Fetch)
	action()
	require.Equal(s.t, n, s.Count(dataplanetest.Fetch)-before, "fetches")
}

// applied waits until the resolver has acted on a transaction.
func (s *scene) applied(tx uint64) {
	s.t.Helper()
	dataplanetest.Await(s.t, s.r, tx)
}

// loseLease lets the lease run out while no heartbeat comes.
func (s *scene) loseLease() {
	s.t.Helper()
	s.StopHeartbeats()
	s.clock.Advance(5 * time.Second)
	require.False(s.t, s.r.Status().Leased)
}

// eventually waits for what must come.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond, what)
}

// outcome is what a Resolve in the background returned.
type outcome struct {
	key *dataplane.Key
	err error
}

// start resolves in the background.
func (s *scene) start(ctx context.Context, req dataplane.Request) <-chan outcome {
	result := make(chan outcome, 1)
	go func() {
		key, err := s.r.Resolve(ctx, req)
		result <- outcome{key, err}
	}()
	return result
}

// outcome waits for a Resolve in the background.
func (s *scene) outcome(result <-chan outcome) outcome {
	s.t.Helper()
	select {
	case o := <-result:
		return o
	case <-time.After(10 * time.Second):
		require.Fail(s.t, "Resolve does not return")
		return outcome{}
	}
}

// awaitLease waits for a heartbeat of the clock's present time.
func (s *scene) awaitLease() {
	s.t.Helper()
	eventually(s.t, "a whole lease", func() bool { return s.r.Status().LeaseRemaining == time.Second })
}

// unrelated is a change that touches nothing of acme's.
func unrelated() gen.StreamMessage {
	customer, project := "other", "other"
	return gen.StreamMessage{Type: "policy.set", CustomerID: &customer, ProjectID: &project}
}

// register registers a key and waits until the resolver knows of it.
func (s *scene) register(k dataplanetest.Key) (id string) {
	s.t.Helper()
	id = s.RegisterKey(k)
	s.applied(s.Publish(unrelated()))
	return id
}

// isRefusal tells that no key was served.
func isRefusal(err error) bool {
	return errors.Is(err, dataplane.ErrNoKey) || errors.Is(err, dataplane.ErrUnavailable)
}
