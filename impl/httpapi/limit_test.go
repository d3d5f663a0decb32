package httpapi_test

import (
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/httpapi"
)

func TestALimiterAllowsTheBurstAndThenTheRate(t *testing.T) {
	for name, tc := range map[string]struct {
		rate        httpapi.Rate
		burst, wait int
	}{
		"a burst of its own":       {httpapi.Rate{PerSecond: 0.01, Burst: 7}, 7, 100},
		"two seconds' worth":       {httpapi.Rate{PerSecond: 3}, 6, 1},
		"one at least":             {httpapi.Rate{PerSecond: 0.01}, 1, 100},
		"a wait that is rounded":   {httpapi.Rate{PerSecond: 0.7, Burst: 1}, 1, 2},
		"a wait of a second least": {httpapi.Rate{PerSecond: 9, Burst: 1}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := httpapi.NewLimiter(tc.rate)
			for range tc.burst {
				ok, _ := l.Allow("a")
				require.True(t, ok)
			}
			ok, wait := l.Allow("a")
			require.False(t, ok)
			require.Equal(t, tc.wait, wait)
			ok, _ = l.Allow("b")
			require.True(t, ok, "each key for itself")
		})
	}
	t.Run("and refills", func(t *testing.T) {
		l := httpapi.NewLimiter(httpapi.Rate{PerSecond: 20, Burst: 1})
		ok, _ := l.Allow("a")
		require.True(t, ok)
		require.Eventually(t, func() bool { ok, _ := l.Allow("a"); return ok }, time.Second, time.Millisecond)
	})
}

func TestWithoutARateThereIsNoLimit(t *testing.T) {
	for _, rate := range []httpapi.Rate{{}, {Burst: 1}, {PerSecond: -1}} {
		l := httpapi.NewLimiter(rate)
		require.Nil(t, l)
		for range 100 {
			ok, _ := l.Allow("a")
			require.True(t, ok)
		}
	}
}

func TestManyAtOnceGetNoMoreThanTheBurst(t *testing.T) {
	l := httpapi.NewLimiter(httpapi.Rate{PerSecond: 0.001, Burst: 50})
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if ok, _ := l.Allow("a"); ok {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 50, allowed.Load())
}

// Anyone can come from ever new addresses: what that costs is bounded, and does not let them off.
func TestALimitersMemoryIsBounded(t *testing.T) {
	l := httpapi.NewLimiter(httpapi.Rate{PerSecond: 0.001, Burst: 1})
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	for range 20 {
		l.Allow("known for long") // which is what the cache keeps
	}
	for i := range 4 * httpapi.LimiterCount {
		l.Allow("address " + strconv.Itoa(i))
		if i%1000 == 0 {
			ok, _ := l.Allow("known for long")
			require.False(t, ok, "after %d others", i)
		}
	}
	require.LessOrEqual(t, l.Len(), httpapi.LimiterCount)
	require.Less(t, int64(used())-int64(before), int64(40<<20), "bytes")
}

func TestAddressesThatOneHostHasAreOne(t *testing.T) {
	for address, want := range map[string]string{
		"203.0.113.7": "203.0.113.7", "::ffff:203.0.113.7": "::ffff:203.0.113.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"fe80::1%eth0": "fe80::/64", "": "", "no address": "no address",
	} {
		require.Equal(t, want, httpapi.AddressKey(address))
	}
}
