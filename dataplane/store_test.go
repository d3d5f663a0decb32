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
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

func TestCacheAndIndexAreBounded(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.CacheSize = 10 })
	id := s.RegisterKey(dataplanetest.Key{})
	for i := range 200 {
		user := string(rune('a'+i%26)) + string(rune('a'+i/26))
		s.SetMember("chat", user)
		s.Serves(dataplane.ForUser("acme", "chat", user, "openai"), id)
	}
	dataplanetest.Eventually(t, "the cache shrinks", func() bool { return s.R.Status().Entries <= 10 })
	s.Sync() // sweeps
	require.LessOrEqual(t, dataplane.SizesOf(s.R).Indexed, 11)
}

func TestAnswerOlderThanARevocation(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	old := s.Register(dataplanetest.Key{})
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait() // the answer has the newer key
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
		hold.Wait()
		s.AwaitTx(s.RevokeKey(id))
		hold.Release() // the key is looked up only now
		require.Equal(t, old, (<-result).Key.ID)
		s.Serves(forNobody, old)
	})
}

// A transaction that commits late has a smaller number than transactions that positions already contain.
func TestAnswerOlderThanALateCommit(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	old := s.Register(dataplanetest.Key{})
	id := s.RegisterKey(dataplanetest.Key{})
	late := s.Begin()
	s.Sync()
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait()
	s.RevokeKeyIn(late, id)
	s.AwaitTx(late)
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
			hold.Wait()
			s.AwaitTx(s.SetPolicy())
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
			hold.Wait()
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
	hold.Wait()
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
	hold.Wait()
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
	hold.Wait()
	var last int64
	for range dataplane.MaxEventLog + 1 {
		last = s.Publish(dataplanetest.Unrelated())
	}
	s.AwaitTx(last)
	s.Fetches(1, func() {
		hold.Release()
		require.Equal(t, id, (<-result).Key.ID)
	})
}

// After a revocation is acknowledged, the key serves no request, even if many fetches ran at the same time.
func TestRevocationRacesManyFetches(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	r := cp.Resolver(t)
	users := make([]dataplane.Request, 100)
	for i := range users {
		users[i] = dataplane.ForUser("acme", "chat", fmt.Sprintf("user%d", i), "openai")
		cp.SetMember("chat", users[i].UserID)
	}
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
			require.True(t, errors.Is(err, dataplane.ErrKeyRevoked) || errors.Is(err, dataplane.ErrUnavailable), "%v", err)
		}
		load.Wait()
	}
}

func TestEventsDropWhatTheyTouch(t *testing.T) {
	chat := []string{
		"nobody", "nobody anthropic", "nobody gemini", "alice", "alice by token", "bob", "bob by token", "mallory", "by id",
	}
	type keys struct{ key, anthropic, alices string } // their ids
	cases := map[string]struct {
		change func(s *dataplanetest.Env, of keys) int64
		drops  []string
	}{
		"a key is revoked": {
			func(s *dataplanetest.Env, of keys) int64 { return s.RevokeKey(of.key) }, []string{"nobody", "bob", "bob by token", "by id"}},
		"a key is disabled": {
			func(s *dataplanetest.Env, of keys) int64 { return s.SetDisabledIn(s.Begin(), of.key, true) }, []string{"nobody", "bob", "bob by token", "by id"}},
		"a key is enabled": {
			func(s *dataplanetest.Env, of keys) int64 { return s.SetDisabledIn(s.Begin(), of.anthropic, false) }, []string{"nobody anthropic"}},
		"a key is given another end": {
			func(s *dataplanetest.Env, of keys) int64 { return s.SetExpiry(of.anthropic, time.Hour) }, []string{"nobody anthropic"}},
		"a key has expired": {
			func(s *dataplanetest.Env, of keys) int64 { return s.AnnounceExpiry(of.key) }, []string{"nobody", "bob", "bob by token", "by id"}},
		"a key will expire": {
			func(s *dataplanetest.Env, of keys) int64 {
				return s.Publish(gen.StreamMessage{Type: "key.expiring", CustomerID: new("acme"), ProjectID: new("chat"), KeyID: &of.key, Provider: new("openai")})
			}, nil},
		"a user's own key is revoked": {
			func(s *dataplanetest.Env, of keys) int64 { return s.RevokeKey(of.alices) }, []string{"alice", "alice by token"}},
		"a key fails": {
			func(s *dataplanetest.Env, of keys) int64 { return s.FailKey(of.anthropic) }, []string{"nobody anthropic"}},
		"a key was sent back": {
			func(s *dataplanetest.Env, of keys) int64 {
				return s.Publish(gen.StreamMessage{
					Type: "key.exposed", CustomerID: new("acme"), ProjectID: new("chat"), KeyID: &of.key, Provider: new("openai")})
			}, nil},
		"a key was tested": {
			func(s *dataplanetest.Env, of keys) int64 {
				return s.Publish(gen.StreamMessage{
					Type: "key.verified", CustomerID: new("acme"), ProjectID: new("chat"), KeyID: &of.key, Provider: new("openai")})
			}, nil},
		"a project's key is registered": {
			func(s *dataplanetest.Env, of keys) int64 {
				s.RegisterKey(dataplanetest.Key{Provider: "gemini"})
				return s.Publish(dataplanetest.Unrelated())
			},
			[]string{"nobody gemini"}},
		"a user's own key is registered": {
			func(s *dataplanetest.Env, of keys) int64 {
				s.RegisterKey(dataplanetest.Key{UserID: "bob"})
				return s.Publish(dataplanetest.Unrelated())
			},
			[]string{"bob", "bob by token"}},
		"a policy is set": {
			func(s *dataplanetest.Env, of keys) int64 { return s.SetPolicy() }, chat},
		"a member is added": {
			func(s *dataplanetest.Env, of keys) int64 { return s.SetMember("chat", "mallory") }, []string{"mallory"}},
		"a member is removed": {
			func(s *dataplanetest.Env, of keys) int64 { return s.RemoveMember("bob") }, []string{"bob", "bob by token"}},
		"a caller's API key is revoked": {
			func(s *dataplanetest.Env, of keys) int64 { return s.RevokeCredential("bobs") }, []string{"bob by token"}},
		"a caller's API key is made": {
			func(s *dataplanetest.Env, of keys) int64 {
				return s.Publish(gen.StreamMessage{
					Type: "token.created", CustomerID: new("acme"), ProjectID: new("chat"), TokenID: new("x")})
			}, nil},
		"something new happens in a project": {
			func(s *dataplanetest.Env, of keys) int64 {
				return s.Publish(gen.StreamMessage{Type: "key.polished", CustomerID: new("acme"), ProjectID: new("chat")})
			}, chat},
		"something new happens to a customer": {
			func(s *dataplanetest.Env, of keys) int64 {
				return s.Publish(gen.StreamMessage{Type: "customer.suspended", CustomerID: new("acme")})
			}, append([]string{"other project"}, chat...)},
		"something happens in another project": {
			func(s *dataplanetest.Env, of keys) int64 { return s.Publish(dataplanetest.Unrelated()) }, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := dataplanetest.NewEnv(t)
			of := keys{
				key: s.RegisterKey(dataplanetest.Key{}), anthropic: s.RegisterKey(dataplanetest.Key{Provider: "anthropic"}),
				alices: s.RegisterKey(dataplanetest.Key{UserID: "alice"}),
			}
			s.RegisterKey(dataplanetest.Key{ProjectID: "other"})
			s.AddCredential("bobs", dataplanetest.Credential{UserID: "bob"})
			s.AddCredential("alices", dataplanetest.Credential{})
			s.Sync()
			entries := map[string]dataplane.Request{
				"nobody":           forNobody,
				"nobody anthropic": dataplane.ForUser("acme", "chat", "", "anthropic"),
				"nobody gemini":    dataplane.ForUser("acme", "chat", "", "gemini"), // a refusal
				"alice":            forAlice,
				"alice by token":   dataplane.ForCaller("alices", "openai"),
				"bob":              dataplane.ForUser("acme", "chat", "bob", "openai"),
				"bob by token":     dataplane.ForCaller("bobs", "openai"),
				"mallory":          dataplane.ForUser("acme", "chat", "mallory", "openai"), // a refusal
				"by id":            dataplane.ByID(of.key),
				"other project":    dataplane.ForUser("acme", "other", "", "openai"),
			}
			fetched := func() (names []string) {
				for name, req := range entries {
					before := s.Count(dataplanetest.Fetch)
					_, _ = s.R.Resolve(t.Context(), req)
					if s.Count(dataplanetest.Fetch) > before {
						names = append(names, name)
					}
				}
				return names
			}
			require.Len(t, fetched(), len(entries))
			require.Empty(t, fetched())
			s.AwaitTx(tc.change(s, of))
			require.ElementsMatch(t, tc.drops, fetched())
		})
	}
}

func TestChangesShowAtOnce(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.RegisterKey(dataplanetest.Key{})
	s.AddCredential("bobs", dataplanetest.Credential{UserID: "bob"})
	s.AddCredential("alices", dataplanetest.Credential{})
	s.Sync()
	bob, byBob := dataplane.ForUser("acme", "chat", "bob", "openai"), dataplane.ForCaller("bobs", "openai")
	byAlice, gemini := dataplane.ForCaller("alices", "openai"), dataplane.ForUser("acme", "chat", "", "gemini")
	for _, req := range []dataplane.Request{forNobody, bob, byBob, byAlice} {
		s.Serves(req, id)
	}
	s.Refuses(gemini, dataplane.ErrNoKey)
	s.AwaitTx(s.RemoveMember("bob"))
	s.Refuses(bob, dataplane.ErrNotMember)
	s.Refuses(byBob, dataplane.ErrNotMember)
	s.AwaitTx(s.RevokeCredential("alices"))
	s.Refuses(byAlice, dataplane.ErrCallerUnauthenticated)
	s.Serves(gemini, s.Register(dataplanetest.Key{Provider: "gemini"}))
	s.AwaitTx(s.SetPolicy())
	next := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, next)
	s.AwaitTx(s.FailKey(next))
	s.Serves(forNobody, id)
}

// A refusal to a credential does not name the project, and a key registered later must still lift it.
func TestRegistrationLiftsUnscopedRefusal(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.AddCredential("alices", dataplanetest.Credential{})
	s.Sync() // no event may arrive during the fetch
	byCredential := dataplane.ForCaller("alices", "openai")
	s.Refuses(byCredential, dataplane.ErrNoKey)
	s.Fetches(0, func() { s.Refuses(byCredential, dataplane.ErrNoKey) })
	id := s.RegisterKey(dataplanetest.Key{})
	s.Sync()
	key, err := s.R.Resolve(t.Context(), byCredential)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
}

func TestWatchedKeysEnd(t *testing.T) {
	for name, end := range map[string]func(s *dataplanetest.Env, key string) (tx int64){
		"with the key":          func(s *dataplanetest.Env, key string) int64 { return s.RevokeKey(key) },
		"with a disabled key":   func(s *dataplanetest.Env, key string) int64 { return s.SetDisabledIn(s.Begin(), key, true) },
		"with an expired key":   func(s *dataplanetest.Env, key string) int64 { return s.AnnounceExpiry(key) },
		"with the caller's key": func(s *dataplanetest.Env, _ string) int64 { return s.RevokeCredential("bobs") },
		"with the membership":   func(s *dataplanetest.Env, _ string) int64 { return s.RemoveMember("bob") },
	} {
		t.Run(name, func(t *testing.T) {
			s := dataplanetest.NewEnv(t)
			s.AddCredential("bobs", dataplanetest.Credential{UserID: "bob"})
			s.AddCredential("alices", dataplanetest.Credential{UserID: "alice"})
			id := s.Register(dataplanetest.Key{})
			other := s.Register(dataplanetest.Key{})
			s.RevokeKey(other) // the revocation of another key ends nothing here
			key, err := s.R.Resolve(t.Context(), dataplane.ForCaller("bobs", "openai"))
			require.NoError(t, err)
			require.Equal(t, id, key.ID)
			ended := make(chan bool, 10)
			s.R.Watch(key, func(certain bool) { ended <- certain })
			stopped := s.R.Watch(key, func(bool) { t.Error("its use has ended") })
			stopped()
			s.AwaitTx(s.RevokeCredential("alices"))
			require.Empty(t, ended, "that ends another's use")
			s.AwaitTx(end(s, id))
			require.True(t, <-ended)
			s.R.Watch(key, func(certain bool) { ended <- certain })
			require.True(t, <-ended, "it has ended since it was resolved")
		})
	}
	t.Run("perhaps, when events were missed", func(t *testing.T) {
		s := dataplanetest.NewEnv(t)
		s.Register(dataplanetest.Key{})
		key, err := s.R.Resolve(t.Context(), forNobody)
		require.NoError(t, err)
		ended := make(chan bool, 10)
		defer s.R.Watch(key, func(certain bool) { ended <- certain })()
		s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
		s.Cut()
		s.Publish(dataplanetest.Unrelated())
		s.Forget()
		s.SetFault(dataplanetest.Healthy)
		s.AwaitStream(2)
		require.False(t, <-ended)
	})
}

func TestUsesInFlightAreAcknowledged(t *testing.T) {
	newEnv := func(t *testing.T, counts bool) *dataplanetest.Env {
		t.Helper()
		s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.CountInFlight = counts })
		s.SetMember("chat", "alice")
		return s
	}
	// acknowledged waits until a key's revocation is acknowledged, and returns the key's count of requests. said
	// reports whether the acknowledgement contains a count.
	acknowledged := func(t *testing.T, s *dataplanetest.Env, id string, tx int64) (requests int, said bool) {
		t.Helper()
		dataplanetest.Eventually(t, "the acknowledgement", func() bool { return s.Acknowledged(tx) })
		for _, ack := range s.Acknowledgements() {
			for _, count := range ack.InFlight {
				if count.KeyID == id {
					return count.Requests, true
				}
			}
		}
		return 0, false
	}
	// use returns a key that alice uses, and the function that ends the use.
	use := func(t *testing.T, s *dataplanetest.Env) (id string, stop func()) {
		t.Helper()
		key, err := s.R.Resolve(t.Context(), dataplane.ForUser("acme", "chat", "alice", "openai"))
		require.NoError(t, err)
		return key.ID, s.R.Watch(key, func(bool) {})
	}
	t.Run("those that go on, ended or not", func(t *testing.T) {
		s := newEnv(t, true)
		unused, used := s.Register(dataplanetest.Key{}), s.Register(dataplanetest.Key{})
		use(t, s)
		s.AwaitTx(s.RemoveMember("alice")) // ends that use, which continues for its grace
		s.AwaitTx(s.SetMember("chat", "alice"))
		use(t, s)
		_, stop := use(t, s)
		stop()
		n, said := acknowledged(t, s, used, s.RevokeKey(used))
		require.True(t, said)
		require.Equal(t, 2, n)
		n, said = acknowledged(t, s, unused, s.RevokeKey(unused))
		require.True(t, said, "none is not unknown")
		require.Zero(t, n)
	})
	t.Run("over a stream that breaks before the acknowledgement", func(t *testing.T) {
		s := newEnv(t, true)
		id := s.Register(dataplanetest.Key{})
		_, stop := use(t, s)
		s.SetFault(dataplanetest.Unavailable, dataplanetest.Acknowledge)
		tx := s.RevokeKey(id)
		s.AwaitTx(tx)
		stop()
		s.Cut()
		s.AwaitStream(2)
		s.SetFault(dataplanetest.Healthy)
		n, said := acknowledged(t, s, id, tx)
		require.True(t, said)
		require.Equal(t, 1, n)
	})
	t.Run("without the number to a replica that does not know it", func(t *testing.T) {
		s := newEnv(t, true)
		id := s.Register(dataplanetest.Key{})
		use(t, s)
		s.RefuseInFlight()
		_, said := acknowledged(t, s, id, s.RevokeKey(id))
		require.False(t, said)
	})
	t.Run("not by a program that does not watch all", func(t *testing.T) {
		s := newEnv(t, false)
		id := s.Register(dataplanetest.Key{})
		use(t, s)
		_, said := acknowledged(t, s, id, s.RevokeKey(id))
		require.False(t, said)
	})
	t.Run("not of revocations that a reset stands for", func(t *testing.T) {
		s := newEnv(t, true)
		id := s.Register(dataplanetest.Key{})
		use(t, s)
		s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
		s.Cut()
		tx := s.RevokeKey(id)
		s.Forget()
		s.SetFault(dataplanetest.Healthy)
		_, said := acknowledged(t, s, id, tx)
		require.False(t, said)
	})
}
