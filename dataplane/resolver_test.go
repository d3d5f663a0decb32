package dataplane_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const credential = "ak_EXAMPLE_CREDENTIAL"

var (
	forAlice  = dataplane.ForUser("acme", "chat", "alice", "openai")
	forNobody = dataplane.ForUser("acme", "chat", "", "openai")
	forCaller = dataplane.ForCaller(credential, "openai")
)

// longCredential is as long as an AgentRouter API key.
const longCredential = "ak_01M83VVAHQQW2E4R6T8Y0A1S3D_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE_EXAMPLE"

// newCachedEnv returns an environment in which a key is cached.
func newCachedEnv(t *testing.T, change ...func(*dataplane.Config)) (s *dataplanetest.Env, id string) {
	t.Helper()
	s = dataplanetest.NewEnv(t, change...)
	id = s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)
	s.Fetches(0, func() { s.Serves(forNobody, id) })
	return s, id
}

func maxStale(d time.Duration) func(*dataplane.Config) {
	return func(cfg *dataplane.Config) { cfg.MaxStale = d }
}

func faults() map[string]dataplanetest.Fault {
	return map[string]dataplanetest.Fault{
		"500": dataplanetest.InternalError, "503": dataplanetest.Unavailable, "hangs": dataplanetest.Hanging,
		"garbage": dataplanetest.Garbage, "429": dataplanetest.TooManyRequests,
	}
}

func fast(cfg *dataplane.Config) { cfg.FetchTimeout = 100 * time.Millisecond }

func TestHitAllocatesNothing(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.RegisterKey(dataplanetest.Key{})
	for name, credential := range map[string]string{
		"an API key": longCredential, "a session token": strings.Repeat("eyJ", 700),
	} {
		s.AddCredential(credential, dataplanetest.Credential{})
		s.Sync()
		s.Serves(dataplane.ForCaller(credential, "openai"), id)
		s.Fetches(0, func() {
			ctx := t.Context()
			allocated := testing.AllocsPerRun(1000, func() {
				if _, err := s.R.Resolve(ctx, dataplane.ForCaller(credential, "openai")); err != nil {
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

func TestMissesShareAFetch(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.RegisterKey(dataplanetest.Key{})
	hold := s.HoldAnswers()
	s.Fetches(1, func() {
		var all sync.WaitGroup
		begun := make(chan struct{}, 1000)
		for range 1000 {
			all.Go(func() {
				begun <- struct{}{}
				key, err := s.R.Resolve(t.Context(), forNobody)
				if err != nil || key.ID != id {
					t.Errorf("%v, %v", key, err)
				}
			})
		}
		for range 1000 {
			<-begun
		}
		hold.Wait()
		hold.Release()
		all.Wait()
	})
}

func TestCancelledCallerLeavesTheFetchRunning(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.RegisterKey(dataplanetest.Key{})
	hold := s.HoldAnswers()
	s.Fetches(1, func() {
		ctx, cancel := context.WithCancel(t.Context())
		first := s.ResolveAsync(ctx, forNobody)
		hold.Wait()
		second := s.ResolveAsync(t.Context(), forNobody)
		cancel()
		require.ErrorIs(t, (<-first).Err, context.Canceled)
		hold.Release()
		got := <-second
		require.NoError(t, got.Err)
		require.Equal(t, id, got.Key.ID)
	})
}

func TestRefusalsAreCached(t *testing.T) {
	cases := map[string]struct {
		prepare func(s *dataplanetest.Env) dataplane.Request
		want    error
	}{
		"no key": {func(*dataplanetest.Env) dataplane.Request { return forNobody }, dataplane.ErrNoKey},
		"not a member": {func(s *dataplanetest.Env) dataplane.Request {
			s.RegisterKey(dataplanetest.Key{})
			return dataplane.ForUser("acme", "chat", "mallory", "openai")
		}, dataplane.ErrNotMember},
		"unauthenticated": {func(*dataplanetest.Env) dataplane.Request {
			return dataplane.ForCaller("nonsense", "openai")
		}, dataplane.ErrCallerUnauthenticated},
		"revoked": {func(s *dataplanetest.Env) dataplane.Request {
			id := s.RegisterKey(dataplanetest.Key{})
			s.RevokeKey(id)
			return dataplane.ByID(id)
		}, dataplane.ErrKeyRevoked},
		"customer not served": {func(s *dataplanetest.Env) dataplane.Request {
			s.SetFault(dataplanetest.CustomerNotServed, dataplanetest.Fetch)
			return forNobody
		}, dataplane.ErrCustomerNotServed},
		"user key required": {func(s *dataplanetest.Env) dataplane.Request {
			s.SetFault(dataplanetest.UserKeyRequired, dataplanetest.Fetch)
			return forAlice
		}, dataplane.ErrUserKeyRequired},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := dataplanetest.NewEnv(t)
			req := tc.prepare(s)
			s.Sync()
			s.Fetches(1, func() {
				s.Refuses(req, tc.want)
				s.Refuses(req, tc.want)
			})
			_, err := s.R.Resolve(t.Context(), req)
			var refused *dataplane.Refusal
			require.Equal(t, name == "revoked", errors.As(err, &refused) && refused.Detail != "", "the control plane's words, from the cache too")
			s.Clock.Advance(time.Second)
			s.AwaitLease()
			s.Fetches(1, func() { s.Refuses(req, tc.want) })
		})
	}
}

func TestInvalidRequestsAreNotSent(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.Fetches(0, func() {
		for _, req := range []dataplane.Request{
			{},
			{Provider: "openai"},
			{Provider: "openai", CustomerID: "acme"},
			{Credential: credential},
			{Credential: credential, Provider: "openai", CustomerID: "acme"},
			{KeyID: "byok_1", Provider: "openai"},
		} {
			s.Refuses(req, dataplane.ErrInvalid)
		}
	})
}

func TestMaxAge(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)
	s.Clock.Advance(5*time.Minute - time.Millisecond)
	s.AwaitLease()
	s.Fetches(0, func() { s.Serves(forNobody, id) })
	s.Clock.Advance(time.Millisecond)
	s.AwaitLease()
	s.Fetches(1, func() { s.Serves(forNobody, id) })
}

func TestCredentialValidity(t *testing.T) {
	s := dataplanetest.NewEnv(t, maxStale(time.Hour))
	id := s.RegisterKey(dataplanetest.Key{})
	s.AddCredential(credential, dataplanetest.Credential{Session: true, Valid: 30 * time.Second})
	s.Sync()
	s.Serves(forCaller, id)
	s.Clock.Advance(30*time.Second - time.Millisecond)
	s.AwaitLease()
	s.Fetches(0, func() { s.Serves(forCaller, id) })
	s.SetFault(dataplanetest.InternalError)
	s.Clock.Advance(time.Millisecond)
	s.Refuses(forCaller, dataplane.ErrUnavailable) // even where stale keys may serve
	s.SetFault(dataplanetest.Healthy)
	s.Refuses(forCaller, dataplane.ErrCallerUnauthenticated)
}

func TestLeaseEnd(t *testing.T) {
	s, id := newCachedEnv(t)
	s.StopHeartbeats()
	s.Clock.Advance(time.Second - time.Nanosecond)
	s.Fetches(0, func() { s.Serves(forNobody, id) })
	s.Clock.Advance(time.Nanosecond)
	s.Fetches(2, func() { // each call fetches
		s.Serves(forNobody, id)
		s.Serves(forNobody, id)
	})
	s.ResumeHeartbeats()
	s.AwaitLease()
	s.Fetches(0, func() { s.Serves(forNobody, id) }) // the cache is kept
}

func TestFailsClosed(t *testing.T) {
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			s, id := newCachedEnv(t, fast)
			s.LoseLease()
			s.SetFault(fault)
			s.Refuses(forNobody, dataplane.ErrUnavailable)
			s.SetFault(dataplanetest.Healthy)
			s.Clock.Advance(dataplane.DownFor)
			s.Serves(forNobody, id)
		})
	}
	t.Run("down", func(t *testing.T) {
		s, id := newCachedEnv(t)
		s.LoseLease()
		s.Down()
		s.Refuses(forNobody, dataplane.ErrUnavailable)
		s.Up()
		s.Clock.Advance(dataplane.DownFor)
		s.Serves(forNobody, id)
	})
}

func TestMaxStale(t *testing.T) {
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			s, id := newCachedEnv(t, maxStale(time.Minute), fast)
			require.Equal(t, time.Minute, s.Connections()[0].MaxStale)
			s.StopHeartbeats()
			s.SetFault(fault)
			s.Clock.Advance(time.Second + time.Minute - time.Millisecond)
			s.Serves(forNobody, id)
			s.Clock.Advance(time.Millisecond)
			s.Refuses(forNobody, dataplane.ErrUnavailable)
		})
	}
}

func TestMaxStaleYieldsToAnAnswer(t *testing.T) {
	s, id := newCachedEnv(t, maxStale(time.Minute))
	s.LoseLease()
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	s.Cut() // no stream announces the revocation
	s.RevokeKey(id)
	s.Refuses(forNobody, dataplane.ErrKeyRevoked)
}

func TestMaxStaleOfAnAgedKey(t *testing.T) {
	s, id := newCachedEnv(t, maxStale(10*time.Minute), func(cfg *dataplane.Config) { cfg.MaxAge = time.Minute })
	s.SetFault(dataplanetest.InternalError, dataplanetest.Fetch)
	s.Clock.Advance(2 * time.Minute)
	s.AwaitLease()
	s.Serves(forNobody, id)
	s.Clock.Advance(9 * time.Minute)
	s.AwaitLease()
	s.Refuses(forNobody, dataplane.ErrUnavailable)
}

func TestMaxStaleWhileAFetchHangs(t *testing.T) {
	s, id := newCachedEnv(t, maxStale(time.Minute), func(cfg *dataplane.Config) { cfg.FetchTimeout = time.Hour })
	s.LoseLease()
	s.SetFault(dataplanetest.Hanging, dataplanetest.Fetch)
	s.Fetches(1, func() {
		s.Serves(forNobody, id) // once the fetch counts as slow
		s.Clock.Advance(dataplane.DownFor)
		s.Serves(forNobody, id)
		s.Refuses(forAlice, dataplane.ErrUnavailable)
	})
}

func TestRunOnceAtATime(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	r, err := dataplane.New(cp.Config())
	require.NoError(t, err)
	stop := dataplanetest.Run(t, r)
	dataplanetest.Eventually(t, "a lease", func() bool { return r.Status().Leased })
	require.ErrorIs(t, r.Run(t.Context()), dataplane.ErrRunning)
	stop()
	require.False(t, r.Status().Connected)
	dataplanetest.Run(t, r)
	dataplanetest.Eventually(t, "a stream again", func() bool { return r.Status().Connected })
	require.NotEmpty(t, cp.Connections()[1].LastEventID)
}

// A credential that the control plane makes for a limited time is fetched again while it still serves, once for all
// callers. It never serves after its end.
func TestMadeKeyIsRefreshedBeforeItEnds(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.MaxAge, cfg.MaxStale = 24*time.Hour, time.Hour })
	id := s.Register(dataplanetest.Key{AuthStyle: "aws_sigv4", Life: time.Hour})
	serve := func() { s.Serves(forNobody, id) }
	advance := func(d time.Duration) {
		s.Clock.Advance(d)
		s.AwaitLease()
	}
	s.Fetches(1, serve)
	advance(47 * time.Minute)
	s.Fetches(0, serve)
	advance(2 * time.Minute)
	held, before := s.HoldAnswers(), s.Count(dataplanetest.Fetch)
	for range 3 {
		serve() // no request waits
	}
	dataplanetest.Eventually(t, "one fetch", func() bool { return s.Count(dataplanetest.Fetch) == before+1 })
	held.Release()
	advance(12 * time.Minute)
	s.Fetches(0, serve) // from the answer, or after waiting for the fetch in flight

	s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	advance(40 * time.Minute)
	serve() // a refresh that fails ends nothing
	advance(30 * time.Minute)
	s.Refuses(forNobody, dataplane.ErrUnavailable)
}

func TestNewReportsEveryInvalidSetting(t *testing.T) {
	_, err := dataplane.New(dataplane.Config{
		ControlPlane: "ftp://x", CacheSize: -1, MaxStale: time.Hour + 1, NegativeTTL: -1, MaxAge: -1, FetchTimeout: -1,
	})
	for _, field := range []string{
		"ControlPlane", "Token", "CacheSize", "MaxStale", "NegativeTTL", "MaxAge", "FetchTimeout",
	} {
		require.ErrorContains(t, err, field)
	}
	registry := prometheus.NewRegistry()
	cfg := dataplane.Config{ControlPlane: "http://127.0.0.1:1", Token: func() string { return "" }, Metrics: registry}
	_, err = dataplane.New(cfg)
	require.NoError(t, err)
	_, err = dataplane.New(cfg)
	require.Error(t, err, "metrics of two resolvers in one registry")
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := dataplanetest.NewEnv(t, maxStale(time.Minute), func(cfg *dataplane.Config) { cfg.Metrics = registry })
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)                     // fetched
	s.Serves(forNobody, id)                     // hit
	s.Refuses(forAlice, dataplane.ErrNotMember) // refused
	s.Refuses(forAlice, dataplane.ErrNotMember) // negative
	s.LoseLease()
	s.SetFault(dataplanetest.Unavailable)
	s.Serves(forNobody, id)                        // stale
	s.Refuses(forCaller, dataplane.ErrUnavailable) // unavailable
	families, err := registry.Gather()
	require.NoError(t, err)
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			samples := float64(m.GetHistogram().GetSampleCount())
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + samples
		}
	}
	const p = "aikeys_dataplane_"
	require.Equal(t, map[string]float64{
		p + "resolves_total fetched": 1, p + "resolves_total hit": 1, p + "resolves_total refused": 1,
		p + "resolves_total negative": 1, p + "resolves_total stale": 1, p + "resolves_total unavailable": 1,
		p + "fetch_duration_seconds": 3, p + "entries": 2, p + "lease_seconds": 0, p + "stream_connected": 1,
		p + "limited_total requests_per_minute": 0, p + "limited_total requests_per_day": 0, p + "limited_total concurrent": 0,
		p + "events_total key.registered": 1, p + "events_total policy.set": 1, p + "fetches_discarded_total": 0, p + "usage_lost_total": 0,
	}, values)
}
