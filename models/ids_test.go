package models_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func TestIDsAreAPrefixAndAULIDOfTheTime(t *testing.T) {
	var g models.IDs
	at := time.UnixMilli(1_760_000_000_123)
	id := g.Next(models.KeyIDPrefix, at)
	parsed, err := ulid.ParseStrict(strings.TrimPrefix(id, "byok_"))
	require.NoError(t, err)
	require.Equal(t, at, parsed.Timestamp())
	require.True(t, strings.HasPrefix(g.Next(models.EventIDPrefix, at), "evt_"))
}

func TestIDsRiseWithinAProcessAlsoWhenTheClockStepsBack(t *testing.T) {
	var g models.IDs
	start := time.UnixMilli(1_760_000_000_000)
	last := ""
	for _, step := range []time.Duration{0, 0, time.Millisecond, 0, -time.Hour, -time.Hour, time.Microsecond, 2 * time.Millisecond} {
		for range 100 {
			id := g.Next("", start.Add(step))
			require.Greater(t, id, last)
			last = id
		}
	}
}

func TestIDsAreUniqueAndRiseForEachOfManyGoroutines(t *testing.T) {
	var g models.IDs
	const each = 2000
	var all []string
	for _, mine := range together(8, func(int) []string {
		out := make([]string, each)
		for i := range out {
			out[i] = g.Next("", time.Now())
		}
		return out
	}) {
		require.True(t, slices.IsSorted(mine))
		all = append(all, mine...)
	}
	slices.Sort(all)
	require.Len(t, slices.Compact(all), 8*each)
}

func TestNoTimeMakesAnIDPanic(t *testing.T) {
	var g models.IDs
	for _, at := range []time.Time{{}, time.Unix(-1, 0), time.UnixMilli(1 << 48), time.Unix(1<<60, 0), time.Now()} {
		require.NotPanics(t, func() {
			require.Len(t, g.Next("", at), ulid.EncodedSize)
			first := g.Next("", at)
			require.Greater(t, g.Next("", at.Add(-time.Hour)), first)
		})
	}
}
