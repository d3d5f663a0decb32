package dataplane_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestAHitAsksNobodyAndAllocatesNothing(t *testing.T) {
	s := newScene(t)
	id := s.RegisterKey(dataplanetest.Key{})
	for name, credential := range map[string]string{
		"an API key": longCredential, "a session token": strings.Repeat("eyJ", 700),
	} {
		s.AddCredential(credential, dataplanetest.Credential{})
		s.applied(s.Publish(unrelated()))
		s.serves(dataplane.ForCaller(credential, "openai"), id)
		s.fetches(0, func() {
			ctx := t.Context()
			allocated := testing.AllocsPerRun(1000, func() {
				if _, err := s.r.Resolve(ctx, dataplane.ForCaller(credential, "openai")); err != nil {
					t.Error(err)
				}
			})
			require.Zero(t, allocated, name)
		})
	}
}

func BenchmarkResolveHit(b *testing.B) {
	cp := dataplanetest.NewControlPlane(b)
	cp.RegisterKey(dataplanetest.Key{})
	cp.AddCredential(longCredential, dataplanetest.Credential{})
	r, ctx := cp.Resolver(b), context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Resolve(ctx, dataplane.ForCaller(longCredential, "openai")); err != nil {
			b.Fatal(err)
		}
	}
}

// longCredential is as long as an API key of ours.
const longCredential = "ak_01M83VVAHQQW2E4R6T8Y0A1S3D_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE_EXAMPLE"

func TestManyMissesMakeOneFetch(t *testing.T) {
	s := newScene(t)
	id := s.RegisterKey(dataplanetest.Key{})
	hold := s.HoldAnswers()
	s.fetches(1, func() {
		var all sync.WaitGroup
		begun := make(chan struct{}, 1000)
		for range 1000 {
			all.Go(func() {
				begun <- struct{}{}
				key, err := s.r.Resolve(t.Context(), forNobody)
				if err != nil || key.ID != id {
					t.Errorf("%v, %v", key, err)
				}
			})
		}
		for range 1000 {
			<-begun
		}
		hold.Wait(1)
		hold.Release()
		all.Wait()
	})
}

func TestACallerThatLeavesDoesNotCancelTheOthersFetch(t *testing.T) {
	s := newScene(t)
	id := s.RegisterKey(dataplanetest.Key{})
	hold := s.HoldAnswers()
	s.fetches(1, func() {
		ctx, cancel := context.WithCancel(t.Context())
		first := s.start(ctx, forNobody)
		hold.Wait(1)
		second := s.start(t.Context(), forNobody)
		cancel()
		require.ErrorIs(t, s.outcome(first).err, context.Canceled)
		hold.Release()
		got := s.outcome(second)
		require.NoError(t, got.err)
		require.Equal(t, id, got.key.ID)
	})
}

func TestAFetchIsBoundedInTime(t *testing.T) {
	s := newScene(t, func(cfg *dataplane.Config) { cfg.FetchTimeout = 100 * time.Millisecond })
	s.SetFault(dataplanetest.Hanging, dataplanetest.Fetch)
	s.refuses(forNobody, dataplane.ErrUnavailable)
}

func TestTheCacheIsBoundedAndItsIndexToo(t *testing.T) {
	s := newScene(t, func(cfg *dataplane.Config) { cfg.CacheSize = 10 })
	id := s.RegisterKey(dataplanetest.Key{})
	for i := range 200 {
		user := string(rune('a'+i%26)) + string(rune('a'+i/26))
		s.SetMember("acme", "chat", user)
		s.serves(dataplane.ForUser("acme", "chat", user, "openai"), id)
	}
	eventually(t, "the cache shrinks", func() bool { return s.r.Status().Entries <= 10 })
	s.applied(s.Publish(unrelated())) // sweeps
	require.LessOrEqual(t, dataplane.Indexed(s.r), 11)
}

func TestRefusalsAreRememberedForAWhile(t *testing.T) {
	cases := map[string]struct {
		prepare func(s *scene) dataplane.Request
		want    error
	}{
		"no key": {func(*scene) dataplane.Request { return forNobody }, dataplane.ErrNoKey},
		"not a member": {func(s *scene) dataplane.Request {
			s.RegisterKey(dataplanetest.Key{})
			return dataplane.ForUser("acme", "chat", "mallory", "openai")
		}, dataplane.ErrNotMember},
		"unauthenticated": {func(*scene) dataplane.Request {
			return dataplane.ForCaller("nonsense", "openai")
		}, dataplane.ErrCallerUnauthenticated},
		"revoked": {func(s *scene) dataplane.Request {
			id := s.RegisterKey(dataplanetest.Key{})
			s.RevokeKey(id)
			return dataplane.ByID(id)
		}, dataplane.ErrKeyRevoked},
		"customer not served": {func(s *scene) dataplane.Request {
			s.ServeCustomers("other")
			return forNobody
		}, dataplane.ErrCustomerNotServed},
		"user key required": {func(s *scene) dataplane.Request {
			s.SetMember("acme", "chat", "alice")
			s.SetPolicy("acme", "chat", dataplanetest.Policy{UserKeys: "require"})
			return forAlice
		}, dataplane.ErrUserKeyRequired},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			req := tc.prepare(s)
			s.applied(s.Publish(unrelated()))
			s.fetches(1, func() {
				s.refuses(req, tc.want)
				s.refuses(req, tc.want)
			})
			s.clock.Advance(time.Second)
			s.awaitLease()
			s.fetches(1, func() { s.refuses(req, tc.want) })
		})
	}
}

func TestWhatTheControlPlaneCanNotAnswerIsInvalid(t *testing.T) {
	s := newScene(t)
	s.fetches(0, func() {
		for _, req := range []dataplane.Request{
			{},
			{Provider: "openai"},
			{Provider: "openai", CustomerID: "acme"},
			{Credential: credential},
			{Credential: credential, Provider: "openai", CustomerID: "acme"},
			{KeyID: "byok_1", Provider: "openai"},
		} {
			s.refuses(req, dataplane.ErrInvalid)
		}
	})
}

func TestACachedKeyIsFetchedAgainWhenItIsOld(t *testing.T) {
	s := newScene(t)
	id := s.register(dataplanetest.Key{})
	s.serves(forNobody, id)
	s.clock.Advance(5*time.Minute - time.Millisecond)
	s.awaitLease()
	s.fetches(0, func() { s.serves(forNobody, id) })
	s.clock.Advance(time.Millisecond)
	s.awaitLease()
	s.fetches(1, func() { s.serves(forNobody, id) })
}

func TestACredentialIsNeverServedLongerThanItIsValid(t *testing.T) {
	s := newScene(t, maxStale(time.Hour))
	id := s.RegisterKey(dataplanetest.Key{})
	s.AddCredential(credential, dataplanetest.Credential{Session: true, Valid: 30 * time.Second})
	s.applied(s.Publish(unrelated()))
	s.serves(forCaller, id)
	s.clock.Advance(30*time.Second - time.Millisecond)
	s.awaitLease()
	s.fetches(0, func() { s.serves(forCaller, id) })
	s.SetFault(dataplanetest.InternalError)
	s.clock.Advance(time.Millisecond)
	s.refuses(forCaller, dataplane.ErrUnavailable) // not even when stale keys may serve
	s.SetFault(dataplanetest.Healthy)
	s.refuses(forCaller, dataplane.ErrCallerUnauthenticated)
}

func TestAnAnswerWhoseCredentialExpiredOnTheWayIsNotUsed(t *testing.T) {
	s := newScene(t)
	s.RegisterKey(dataplanetest.Key{})
	s.AddCredential(credential, dataplanetest.Credential{Session: true, Valid: time.Second})
	hold := s.HoldAnswers()
	result := s.start(t.Context(), forCaller)
	hold.Wait(1)
	s.clock.Advance(time.Second)
	hold.Release()
	require.ErrorIs(t, s.outcome(result).err, dataplane.ErrCallerUnauthenticated)
}
