package ratelimit

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

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
