package ratelimit

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimiter(t *testing.T) {
	for name, tc := range map[string]struct {
		rate        Rate
		burst, wait int
	}{
		"a given burst":           {Rate{PerSecond: 0.01, Burst: 7}, 7, 100},
		"two seconds' worth":      {Rate{PerSecond: 3}, 6, 1},
		"at least one":            {Rate{PerSecond: 0.01}, 1, 100},
		"a wait that is rounded":  {Rate{PerSecond: 0.7, Burst: 1}, 1, 2},
		"a wait of at least 1 s":  {Rate{PerSecond: 9, Burst: 1}, 1, 1},
		"no limit without a rate": {Rate{Burst: 1}, 1000, 1},
		"no limit below zero":     {Rate{PerSecond: -1}, 1000, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New[string](tc.rate)
				for range tc.burst {
					require.False(t, l.Exhausted("a"))
					require.True(t, l.Allow("a"))
				}
				require.Equal(t, tc.wait, l.RetryAfter())
				if tc.rate.PerSecond <= 0 {
					require.Nil(t, l)
					return
				}
				require.True(t, l.Exhausted("a"))
				require.False(t, l.Allow("a"))
				require.True(t, l.Allow("b"), "keys are counted apart")
				time.Sleep(time.Duration(tc.wait) * time.Second)
				require.True(t, l.Allow("a"), "after the time to wait")
			})
		})
	}
}

func TestTakeSaysWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[string](Rate{PerSecond: 0.5, Burst: 3})
		for i, want := range []Quota{{Limit: 3, Remaining: 2, Reset: 2}, {Limit: 3, Remaining: 1, Reset: 4}, {Limit: 3, Reset: 6}, {Limit: 3, Reset: 6}} {
			left, ok := l.Take("a")
			require.Equal(t, want, left)
			require.Equal(t, i < 3, ok)
		}
		time.Sleep(3 * time.Second) // one and a half have been added
		left, ok := l.Take("a")
		require.True(t, ok)
		require.Equal(t, Quota{Limit: 3, Reset: 5}, left)
		left, ok = (*Limiter[string])(nil).Take("a")
		require.True(t, ok)
		require.Zero(t, left)
	})
}

func TestLimiterConcurrently(t *testing.T) {
	l := New[string](Rate{PerSecond: 0.001, Burst: 50})
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if l.Allow("a") {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 50, allowed.Load())
}

// An attacker may use new addresses all the time. The memory stays bounded, and the limit of an address in use is not
// reset.
func TestLimiterIsBounded(t *testing.T) {
	l := New[int](Rate{PerSecond: 0.001, Burst: 1})
	for range 20 {
		l.Allow(-1) // used often, so the cache keeps it
	}
	for i := range 2 * maxKeys {
		l.Allow(i)
		if i%1000 == 0 {
			require.False(t, l.Allow(-1), "after %d other keys", i)
		}
	}
	l.buckets.CleanUp()
	require.LessOrEqual(t, l.buckets.EstimatedSize(), maxKeys)
}

func TestGuessesAreLimitedBeforeTheLookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused, reported := 0, 0
		g := NewGuesses(Rate{PerSecond: 0.001, Burst: 1}, func(_ context.Context, _ netip.Addr, isFirst bool) {
			if refused++; isFirst {
				reported++
			}
		})
		lookUps := func(address netip.Addr, tries int) (done int) {
			for range tries {
				release, err := g.Begin(t.Context(), address, false)
				require.NoError(t, err)
				if release != nil {
					done++
					release()
				}
			}
			return done
		}
		one := netip.MustParseAddr("192.0.2.1")
		require.False(t, g.IsSuspect(one))
		require.True(t, g.Fail(t.Context(), one))
		require.True(t, g.IsSuspect(one))
		require.False(t, g.Fail(t.Context(), one))
		require.Equal(t, suspectLookUps, lookUps(one, 50))
		time.Sleep(time.Second)
		require.Equal(t, suspectLookUps, lookUps(one, 50))
		require.Equal(t, 91, refused)
		require.Equal(t, 1, reported, "once a minute")
		time.Sleep(time.Minute)
		all, address := 0, one
		for range 50 {
			address = address.Next()
			all += lookUps(address, suspectLookUps)
		}
		require.Equal(t, allSuspectLookUps, all, "all addresses together")

		time.Sleep(time.Minute)
		for range maxSuspects {
			_, err := g.Begin(t.Context(), one, true) // the issuer hangs
			require.NoError(t, err)
		}
		began := time.Now()
		require.Equal(t, 1, lookUps(one, 1), "API keys do not wait for JWTs")
		require.Zero(t, time.Since(began))
		release, err := g.Begin(t.Context(), one, true)
		require.NoError(t, err)
		require.Nil(t, release)
		require.Equal(t, suspectPatience, time.Since(began), "nothing waits longer")
	})
	var none *Guesses
	require.True(t, none.Fail(t.Context(), netip.Addr{}))
	require.False(t, none.IsSuspect(netip.Addr{}))
}
