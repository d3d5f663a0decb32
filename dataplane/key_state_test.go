package dataplane_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestADisabledKeyServesAgainOnceEnabled(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
	s.Refuses(forNobody, dataplane.ErrKeyDisabled)
	s.Refuses(dataplane.ByID(id), dataplane.ErrKeyDisabled)
	s.Fetches(0, func() { s.Refuses(forNobody, dataplane.ErrKeyDisabled) })
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, false))
	s.Serves(forNobody, id)
	s.Serves(dataplane.ByID(id), id)
}

// Transactions commit out of order, so the message that disables a key may come after the one that enables it again.
func TestAnOlderDisableEndsNoLaterUse(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	s.Cut()
	dataplanetest.Eventually(t, "no stream", func() bool { return !s.R.Status().Connected })
	s.SetDisabledIn(s.Begin(), id, true)
	enabled := s.SetDisabledIn(s.Begin(), id, false)
	key, err := s.R.Resolve(t.Context(), forNobody) // it knows of both
	require.NoError(t, err)
	ended := make(chan bool, 10)
	t.Cleanup(s.R.Watch(key, func(certain bool) { ended <- certain }))
	s.SetFault(dataplanetest.Healthy)
	s.AwaitTx(enabled) // it has read both messages
	require.Empty(t, ended)
	s.Serves(forNobody, id)
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
	require.True(t, <-ended)
}

func TestAnAnswerFromBeforeADisableIsNotUsed(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait() // the answer has the key
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
	hold.Release()
	require.ErrorIs(t, (<-result).Err, dataplane.ErrKeyDisabled)
}

func TestARefusalFromBeforeAnEnableIsNotUsed(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait() // the answer is a refusal
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, false))
	hold.Release()
	got := <-result
	require.NoError(t, got.Err)
	require.Equal(t, id, got.Key.ID)
}

// No message and no lease is needed, and no grace prolongs it.
func TestAKeyEndsAtItsTimeWithoutAStream(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.MaxAge, cfg.MaxStale = 24*time.Hour, time.Hour })
	id := s.Register(dataplanetest.Key{Ends: 10 * time.Minute})
	s.Serves(forNobody, id)
	s.SetFault(dataplanetest.Unavailable)
	s.Cut()
	dataplanetest.Eventually(t, "no stream", func() bool { return !s.R.Status().Connected })
	s.Clock.Advance(10*time.Minute - time.Millisecond)
	s.Serves(forNobody, id)
	s.Clock.Advance(time.Millisecond)
	s.Refuses(forNobody, dataplane.ErrUnavailable)
	s.SetFault(dataplanetest.Healthy)
	s.Clock.Advance(time.Second)
	s.Refuses(forNobody, dataplane.ErrKeyExpired)
}

func TestAnExtendedKeyServesAgain(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{Ends: time.Minute})
	s.Serves(forNobody, id)
	s.Clock.Advance(time.Minute)
	s.AwaitLease()
	s.Refuses(forNobody, dataplane.ErrKeyExpired)
	s.AwaitTx(s.SetExpiry(id, time.Minute))
	s.Serves(forNobody, id)
	s.AwaitTx(s.SetExpiry(id, 0))
	s.Clock.Advance(2 * time.Minute)
	s.AwaitLease()
	s.Serves(forNobody, id)
}

// The clock stands still, so that the timer of a use finds its time not over, and asks again until the test moves the clock.
func TestAUseEndsWithItsKeysTime(t *testing.T) {
	const life = 20 * time.Millisecond
	watched := func(t *testing.T) (s *dataplanetest.Env, id string, ended chan bool) {
		t.Helper()
		s = dataplanetest.NewEnv(t)
		id = s.Register(dataplanetest.Key{Ends: life})
		key, err := s.R.Resolve(t.Context(), forNobody)
		require.NoError(t, err)
		ended = make(chan bool, 10)
		t.Cleanup(s.R.Watch(key, func(certain bool) { ended <- certain }))
		return s, id, ended
	}
	asksAgain := func(s *dataplanetest.Env) {
		before := s.Count(dataplanetest.Fetch)
		dataplanetest.Eventually(t, "it asks for the key by its id", func() bool { return s.Count(dataplanetest.Fetch) > before })
	}
	t.Run("at its time", func(t *testing.T) {
		s, _, ended := watched(t)
		asksAgain(s)
		require.Empty(t, ended)
		s.Clock.Advance(life)
		require.True(t, <-ended)
	})
	t.Run("without an answer", func(t *testing.T) {
		s, _, ended := watched(t)
		s.SetFault(dataplanetest.Unavailable)
		s.Cut()
		s.Clock.Advance(life)
		require.True(t, <-ended)
	})
	t.Run("at its later time", func(t *testing.T) {
		s, id, ended := watched(t)
		s.AwaitTx(s.SetExpiry(id, 2*life))
		s.Clock.Advance(life)
		asksAgain(s)
		require.Empty(t, ended)
		s.Clock.Advance(life)
		require.True(t, <-ended)
	})
	t.Run("never, if it has none any longer", func(t *testing.T) {
		s, id, ended := watched(t)
		s.SetExpiry(id, 0)
		asksAgain(s)
		s.Clock.Advance(life)
		s.Sync()
		require.Empty(t, ended)
		s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
		require.True(t, <-ended)
	})
}
