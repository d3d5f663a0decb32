package dataplane_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestCacheAndIndexAreBounded(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.CacheSize = 10 })
	id := s.RegisterKey(dataplanetest.Key{})
	for i := range 200 {
		user := string(rune('a'+i%26)) + string(rune('a'+i/26))
		s.SetMember("acme", "chat", user)
		s.Serves(dataplane.ForUser("acme", "chat", user, "openai"), id)
	}
	dataplanetest.Eventually(t, "the cache shrinks", func() bool { return s.R.Status().Entries <= 10 })
	s.Sync() // sweeps
	require.LessOrEqual(t, dataplane.Indexed(s.R), 11)
}

func TestAnswerOlderThanARevocation(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	old := s.Register(dataplanetest.Key{})
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait(1) // the answer has the newer key
	s.AwaitTx(s.RevokeKey(id))
	s.Fetches(1, func() {
		hold.Release()
		got := <-result
		require.NoError(t, got.Err)
		require.Equal(t, old, got.Key.ID)
	})
	s.Fetches(0, func() { s.Serves(forNobody, old) })
}

func TestAnswerNewerThanARevocation(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	old := s.Register(dataplanetest.Key{})
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldRequests()
	s.Fetches(1, func() {
		result := s.ResolveAsync(t.Context(), forNobody)
		hold.Wait(1)
		s.AwaitTx(s.RevokeKey(id))
		hold.Release() // the key is looked up only now
		require.Equal(t, old, (<-result).Key.ID)
		s.Serves(forNobody, old)
	})
}

// A transaction that commits late has a smaller number than others that positions already contain.
func TestAnswerOlderThanALateCommit(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	old := s.Register(dataplanetest.Key{})
	id := s.RegisterKey(dataplanetest.Key{})
	late := s.Begin()
	s.Sync()
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait(1)
	late.RevokeKey(id)
	s.AwaitTx(late.Tx)
	hold.Release()
	require.Equal(t, old, (<-result).Key.ID)
}

func TestFetchOutdatedEachTime(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.Register(dataplanetest.Key{})
	s.Fetches(3, func() {
		hold := s.HoldAnswers()
		result := s.ResolveAsync(t.Context(), forNobody)
		for range 3 {
			hold.Wait(1)
			s.AwaitTx(s.SetPolicy("acme", "chat", dataplanetest.Policy{}))
			next := s.HoldAnswers()
			hold.Release()
			hold = next
		}
		require.ErrorIs(t, (<-result).Err, dataplane.ErrUnavailable)
		hold.Release()
	})
}

func TestRefusalOlderThanARegistration(t *testing.T) {
	for name, req := range map[string]dataplane.Request{"by user": forNobody, "by credential": forCaller} {
		t.Run(name, func(t *testing.T) {
			s := dataplanetest.NewEnv(t)
			s.AddCredential(credential, dataplanetest.Credential{})
			s.Sync()
			hold := s.HoldAnswers()
			result := s.ResolveAsync(t.Context(), req)
			hold.Wait(1)
			id := s.Register(dataplanetest.Key{})
			hold.Release()
			got := <-result
			require.NoError(t, got.Err)
			require.Equal(t, id, got.Key.ID)
		})
	}
}

func TestRefusalDuringAnyEventIsNotCached(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	hold := s.HoldAnswers()
	other := dataplane.ForCaller("nonsense", "openai")
	result := s.ResolveAsync(t.Context(), other)
	hold.Wait(1)
	id := s.RegisterKey(dataplanetest.Key{Provider: "anthropic"})
	s.AwaitTx(s.RevokeKey(id))
	hold.Release()
	require.ErrorIs(t, (<-result).Err, dataplane.ErrCallerUnauthenticated)
	s.Fetches(1, func() { s.Refuses(other, dataplane.ErrCallerUnauthenticated) })
}

func TestAnswerOlderThanAReset(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait(1)
	s.Send("data: {\"type\":\"reset\"}\n\n")
	s.Sync()
	s.Fetches(1, func() {
		hold.Release()
		require.Equal(t, id, (<-result).Key.ID)
	})
}

func TestAnswerOlderThanTheEventLog(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait(1)
	var last int64
	for range dataplane.MaxLog + 1 {
		last = s.Publish(dataplanetest.Unrelated())
	}
	s.AwaitTx(last)
	s.Fetches(1, func() {
		hold.Release()
		require.Equal(t, id, (<-result).Key.ID)
	})
}

// After a revocation is acknowledged, the key serves no request, however many fetches ran at the same time.
func TestRevocationRacesManyFetches(t *testing.T) {
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
		dataplanetest.Await(t, r, cp.Publish(dataplanetest.Unrelated()))
		before := cp.Count(dataplanetest.Fetch)
		var load sync.WaitGroup
		for _, req := range users {
			load.Go(func() { _, _ = r.Resolve(t.Context(), req) })
		}
		dataplanetest.Eventually(t, "fetches", func() bool { return cp.Count(dataplanetest.Fetch) > before+20 })
		tx := cp.RevokeKey(id)
		dataplanetest.Eventually(t, "acknowledged", func() bool { return cp.Acknowledged(tx) })
		for _, req := range users {
			_, err := r.Resolve(t.Context(), req)
			require.Error(t, err, "the key serves after its revocation was acknowledged")
			require.True(t, errors.Is(err, dataplane.ErrNoKey) || errors.Is(err, dataplane.ErrUnavailable), "%v", err)
		}
		load.Wait()
	}
}
