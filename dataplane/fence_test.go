package dataplane_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestAnAnswerThatARevocationOvertookIsNotUsed(t *testing.T) {
	s := newScene(t)
	old := s.register(dataplanetest.Key{})
	id := s.register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.start(t.Context(), forNobody)
	hold.Wait(1) // with the newer key in the answer
	s.applied(s.RevokeKey(id))
	s.fetches(1, func() {
		hold.Release()
		got := s.outcome(result)
		require.NoError(t, got.err)
		require.Equal(t, old, got.key.ID)
	})
	s.fetches(0, func() { s.serves(forNobody, old) })
}

func TestAnAnswerThatKnowsOfTheEventIsUsed(t *testing.T) {
	s := newScene(t)
	old := s.register(dataplanetest.Key{})
	id := s.register(dataplanetest.Key{})
	hold := s.HoldRequests()
	s.fetches(1, func() {
		result := s.start(t.Context(), forNobody)
		hold.Wait(1)
		s.applied(s.RevokeKey(id))
		hold.Release() // looks the key up only now
		require.Equal(t, old, s.outcome(result).key.ID)
		s.serves(forNobody, old)
	})
}

// A transaction that began before others and commits after them has a smaller number than what positions hold.
func TestARevocationThatCommitsLateIsNotTakenForOldNews(t *testing.T) {
	s := newScene(t)
	old := s.register(dataplanetest.Key{})
	id := s.RegisterKey(dataplanetest.Key{})
	late := s.Begin()
	s.applied(s.Publish(unrelated()))
	hold := s.HoldAnswers()
	result := s.start(t.Context(), forNobody)
	hold.Wait(1)
	late.RevokeKey(id)
	s.applied(late.Tx)
	hold.Release()
	require.Equal(t, old, s.outcome(result).key.ID)
}

func TestAnAnswerThatIsOvertakenEachTimeFails(t *testing.T) {
	s := newScene(t)
	s.register(dataplanetest.Key{})
	s.fetches(3, func() {
		hold := s.HoldAnswers()
		result := s.start(t.Context(), forNobody)
		for range 3 {
			hold.Wait(1)
			s.applied(s.SetPolicy("acme", "chat", dataplanetest.Policy{}))
			next := s.HoldAnswers()
			hold.Release()
			hold = next
		}
		require.ErrorIs(t, s.outcome(result).err, dataplane.ErrUnavailable)
		hold.Release()
	})
}

func TestARefusalThatARegistrationOvertookIsFetchedAgain(t *testing.T) {
	for name, req := range map[string]dataplane.Request{"by user": forNobody, "by credential": forCaller} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.AddCredential(credential, dataplanetest.Credential{})
			s.applied(s.Publish(unrelated()))
			hold := s.HoldAnswers()
			result := s.start(t.Context(), req)
			hold.Wait(1)
			id := s.register(dataplanetest.Key{})
			hold.Release()
			got := s.outcome(result)
			require.NoError(t, got.err)
			require.Equal(t, id, got.key.ID)
		})
	}
}

func TestARefusalThatAnyEventOvertookIsNotRemembered(t *testing.T) {
	s := newScene(t)
	hold := s.HoldAnswers()
	other := dataplane.ForCaller("nonsense", "openai")
	result := s.start(t.Context(), other)
	hold.Wait(1)
	id := s.RegisterKey(dataplanetest.Key{Provider: "anthropic"})
	s.applied(s.RevokeKey(id))
	hold.Release()
	require.ErrorIs(t, s.outcome(result).err, dataplane.ErrCallerUnauthenticated)
	s.fetches(1, func() { s.refuses(other, dataplane.ErrCallerUnauthenticated) })
}

func TestAnAnswerThatAResetOvertookIsFetchedAgain(t *testing.T) {
	s := newScene(t)
	id := s.register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.start(t.Context(), forNobody)
	hold.Wait(1)
	s.Send("data: {\"type\":\"reset\"}\n\n")
	s.applied(s.Publish(unrelated()))
	s.fetches(1, func() {
		hold.Release()
		require.Equal(t, id, s.outcome(result).key.ID)
	})
}

func TestTooManyEventsForTheLogOvertakeAnything(t *testing.T) {
	s := newScene(t)
	id := s.register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.start(t.Context(), forNobody)
	hold.Wait(1)
	var last uint64
	for range dataplane.MaxLog + 1 {
		last = s.Publish(unrelated())
	}
	s.applied(last)
	s.fetches(1, func() {
		hold.Release()
		require.Equal(t, id, s.outcome(result).key.ID)
	})
}

// Whatever is served after a revocation was acknowledged is not that key, however many fetches it raced.
func TestARevocationThatRacesManyFetchesIsNeverUndone(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	r := cp.Resolver(t)
	users := make([]dataplane.Request, 100)
	for i := range users {
		users[i] = dataplane.ForUser("acme", "chat", fmt.Sprintf("user%d", i), "openai")
		cp.SetMember("acme", "chat", users[i].UserID)
	}
	cp.DelayFetches(2 * time.Millisecond)
	for range 3 {
		id := cp.RegisterKey(dataplanetest.Key{})
		dataplanetest.Await(t, r, cp.Publish(unrelated()))
		before := cp.Count(dataplanetest.Fetch)
		var load sync.WaitGroup
		for _, req := range users {
			load.Go(func() { _, _ = r.Resolve(t.Context(), req) })
		}
		eventually(t, "fetches", func() bool { return cp.Count(dataplanetest.Fetch) > before+20 })
		tx := cp.RevokeKey(id)
		eventually(t, "acknowledged", func() bool { return cp.Acknowledged(tx) })
		for _, req := range users {
			_, err := r.Resolve(t.Context(), req)
			require.True(t, isRefusal(err), "the key serves after its revocation was acknowledged: %v", err)
		}
		load.Wait()
	}
}
