package dataplane_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
)

func TestARotatedKeyServesItsNewVersionAtOnce(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)
	s.AwaitTx(s.RotateKey(id, "sk-EXAMPLE-second"))
	for _, request := range []dataplane.Request{forNobody, dataplane.ByID(id)} {
		key, err := s.R.Resolve(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, 2, key.Version)
		header := http.Header{}
		require.NoError(t, key.Authorize(header))
		require.Equal(t, "Bearer sk-EXAMPLE-second", header.Get("Authorization"))
	}
}

// The answer left the control plane before the rotation, and arrives after its event.
func TestAnAnswerFromBeforeARotationIsNotUsed(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait()
	s.AwaitTx(s.RotateKey(id, "sk-EXAMPLE-second"))
	hold.Release()
	got := <-result
	require.NoError(t, got.Err)
	require.Equal(t, 2, got.Key.Version)
}

func TestARotationEndsNoUseAndCountsThem(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.CountInFlight = true })
	id := s.Register(dataplanetest.Key{})
	old, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	ended := make(chan bool, 10)
	t.Cleanup(s.R.Watch(old, func(certain bool) { ended <- certain }))
	tx := s.RotateKey(id, "sk-EXAMPLE-second")
	s.AwaitTx(tx)
	s.Serves(forNobody, id)
	dataplanetest.Eventually(t, "the use is counted", func() bool {
		return slices.ContainsFunc(s.Acknowledgements(), func(ack gen.AcknowledgeRequest) bool {
			return slices.Contains(ack.InFlight, gen.InFlight{KeyID: id, Requests: 1})
		})
	})
	require.Empty(t, ended)
	s.AwaitTx(s.RevokeKey(id))
	require.True(t, <-ended, "a revocation ends it, whatever its version")
}

func TestAReportNamesTheVersion(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	first, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	s.AwaitTx(s.RotateKey(id, "sk-EXAMPLE-second"))
	second, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	s.R.Report(second, http.StatusUnauthorized)
	s.R.Report(first, http.StatusUnauthorized) // a late report, which must not hide the report of the second version
	dataplanetest.Eventually(t, "a report of the second version", func() bool {
		for _, report := range s.Reports() {
			if report.FailedVersion != nil && *report.FailedVersion == 2 {
				return true
			}
		}
		return false
	})
}

func TestAnOldVersionServesUntilTheNewOneIsHere(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	other, id := s.Register(dataplanetest.Key{Provider: "anthropic"}), s.Register(dataplanetest.Key{AllOperations: true, NextIfLimited: true})
	s.AwaitTx(s.SetMember("chat", "mia"))
	requests := []dataplane.Request{forNobody, dataplane.ForUser("acme", "chat", "mia", "openai")}
	for _, request := range requests {
		s.Serves(request, id)
	}
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	tx := s.RotateKeyWithin(id, "sk-EXAMPLE-second", time.Hour)
	later := s.RevokeKey(other)
	s.AwaitTx(later)
	dataplanetest.Eventually(t, "what came later is acknowledged", func() bool { return s.Acknowledged(later) })
	require.False(t, s.Acknowledged(tx), "the old version serves")
	for _, request := range requests {
		key, err := s.R.Resolve(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, 1, key.Version)
	}
	s.SetFault(dataplanetest.Healthy, dataplanetest.Fetch)
	dataplanetest.Eventually(t, "the rotation is acknowledged", func() bool { return s.Acknowledged(tx) })
	s.Down() // what serves now comes from the cache
	for _, request := range requests {
		key, err := s.R.Resolve(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, 2, key.Version)
		require.Equal(t, "sk-EXAMPLE-second", key.Secret().Reveal())
		require.Equal(t, request.UserID != "", key.Caller != nil, "it is for the same caller")
		require.True(t, key.AllOperations && key.NextIfLimited, "the policy is the same")
	}
}

func TestAControlPlaneThatDiesWhileRotatingFailsNobody(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Minute} {
		s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.MaxStale = grace })
		id := s.Register(dataplanetest.Key{})
		s.Serves(forNobody, id)
		hold := s.HoldRequests()
		s.AwaitTx(s.RotateKeyWithin(id, "sk-EXAMPLE-second", time.Hour))
		hold.Wait()
		s.Down()
		s.AwaitDisconnect()
		s.Serves(forNobody, id)
		s.Clock.Advance(grace + 900*time.Millisecond)
		s.Serves(forNobody, id)
		s.Clock.Advance(time.Second)
		s.Refuses(forNobody, dataplane.ErrUnavailable)
		hold.Release()
		s.Up()
		dataplanetest.Eventually(t, "the new version serves", func() bool {
			key, err := s.R.Resolve(t.Context(), forNobody)
			return err == nil && key.Version == 2
		})
	}
}

func TestWhatEndsAnOldVersionAtOnce(t *testing.T) {
	for name, end := range map[string]func(s *dataplanetest.Env, id string) (tx int64){
		"revoked":   func(s *dataplanetest.Env, id string) int64 { return s.RevokeKey(id) },
		"disabled":  func(s *dataplanetest.Env, id string) int64 { return s.SetDisabledIn(s.Begin(), id, true) },
		"destroyed": func(s *dataplanetest.Env, id string) int64 { return s.DestroyVersion(id, 1) },
		"rotated again": func(s *dataplanetest.Env, id string) int64 {
			return s.RotateKeyWithin(id, "sk-EXAMPLE-third", time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := dataplanetest.NewEnv(t)
			id := s.Register(dataplanetest.Key{})
			s.Serves(forNobody, id)
			s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
			tx := s.RotateKeyWithin(id, "sk-EXAMPLE-second", time.Hour)
			s.AwaitTx(tx)
			s.Serves(forNobody, id)
			ended := end(s, id)
			s.AwaitTx(ended)
			s.Refuses(forNobody, dataplane.ErrUnavailable)
			dataplanetest.Eventually(t, "both are acknowledged", func() bool { return s.Acknowledged(tx) && s.Acknowledged(ended) })
		})
	}
}

func TestAnOldVersionServesNoLongerThanItMay(t *testing.T) {
	for _, c := range []struct{ overlap, allowed time.Duration }{
		{overlap: 500 * time.Millisecond, allowed: 500 * time.Millisecond},
		{overlap: time.Hour, allowed: time.Second}, // later heartbeats do not prolong the lease
	} {
		s := dataplanetest.NewEnv(t)
		id := s.Register(dataplanetest.Key{})
		s.Serves(forNobody, id)
		s.AwaitLease()
		s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
		tx := s.RotateKeyWithin(id, "sk-EXAMPLE-second", c.overlap)
		s.AwaitTx(tx)
		s.Clock.Advance(c.allowed - 10*time.Millisecond)
		s.AwaitLease()
		s.Serves(forNobody, id)
		s.Clock.Advance(10 * time.Millisecond)
		s.AwaitLease()
		s.Refuses(forNobody, dataplane.ErrUnavailable)
		dataplanetest.Eventually(t, "the rotation is acknowledged", func() bool { return s.Acknowledged(tx) })
	}
}

func TestAStreamResumesBeforeARotationInProgress(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	tx := s.RotateKeyWithin(id, "sk-EXAMPLE-second", time.Hour)
	s.AwaitTx(tx)
	s.Cut()
	resumed, err := position.Parse(s.AwaitStream(2).LastEventID)
	require.NoError(t, err)
	require.False(t, resumed.Contains(tx), "it acknowledges what it resumes from")
	require.True(t, resumed.Contains(tx-1))
	s.Serves(forNobody, id) // though the event came again
	s.SetFault(dataplanetest.Healthy, dataplanetest.Fetch)
	dataplanetest.Eventually(t, "the rotation is acknowledged", func() bool { return s.Acknowledged(tx) })
}

func TestARotationLeavesOtherKeysServing(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	older, newer := s.Register(dataplanetest.Key{}), s.Register(dataplanetest.Key{})
	s.Serves(forNobody, newer)
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	tx := s.RotateKeyWithin(older, "sk-EXAMPLE-second", time.Hour)
	s.AwaitTx(tx)
	s.Serves(forNobody, newer)
	dataplanetest.Eventually(t, "it does not wait for them", func() bool { return s.Acknowledged(tx) })
}

func TestUsesAreCountedWhenTheNewVersionIsHere(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.CountInFlight = true })
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	tx := s.RotateKeyWithin(id, "sk-EXAMPLE-second", time.Hour)
	s.AwaitTx(tx)
	for range 3 { // each round begins with the old version
		old, err := s.R.Resolve(t.Context(), forNobody)
		require.NoError(t, err)
		t.Cleanup(s.R.Watch(old, func(bool) {}))
	}
	ended, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	s.R.Watch(ended, func(bool) {})()
	s.SetFault(dataplanetest.Healthy, dataplanetest.Fetch)
	dataplanetest.Eventually(t, "the uses are counted", func() bool {
		return slices.ContainsFunc(s.Acknowledgements(), func(ack gen.AcknowledgeRequest) bool {
			return slices.Contains(ack.InFlight, gen.InFlight{KeyID: id, Requests: 3})
		})
	})
	require.True(t, s.Acknowledged(tx))
}
