package models_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// usage returns the project's usage that a filter selects.
func (f *fixture) usage(filter models.UsageFilter) []models.Usage {
	f.t.Helper()
	if filter.Limit == 0 {
		filter.Limit = 1000
	}
	page, err := f.ListUsage(f.t.Context(), acme, web, filter)
	require.NoError(f.t, err)
	return page
}

// at returns a time of 2026-11-<day>, in microseconds.
func at(day, hour, minute int) int64 {
	return time.Date(2026, 11, day, hour, minute, 0, 0, time.UTC).UnixMicro()
}

func used(k models.Key, user string, requests, refusals, last int64) models.UsageCount {
	return models.UsageCount{KeyID: k.ID, UserID: user, Requests: requests, Refusals: refusals, LastUsedAt: last}
}

func usageOf(k models.Key, user string, requests, refusals, last int64) models.Usage {
	return models.Usage{UsageKey: models.UsageKey{Day: last / (24 * time.Hour).Microseconds(), KeyID: k.ID, UserID: user}, Provider: k.Provider,
		Requests: requests, Refusals: refusals, LastUsedAt: last}
}

func TestUsageAddsUpByDayKeyAndUser(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, older, newer := f.dataPlane("all", nil), f.register(f.shared(olga)), f.register(f.own(mia, provider("mistral")))
		add := func(number int64, counts ...models.UsageCount) {
			require.NoError(t, f.AddUsage(t.Context(), d, models.UsageBatch{ReporterID: "r", Number: number, Counts: counts}))
		}
		add(1, used(older, "mia", 2, 1, at(20, 23, 59)), used(older, "mia", 1, 0, at(20, 22, 0)), used(older, "mia", 4, 0, at(20, 23, 1)))
		add(2, used(older, "mia", 8, 2, at(21, 0, 0)), used(older, "", 1, 1, at(21, 3, 0)), used(newer, "mia", 5, 0, at(21, 3, 0)))
		add(3, used(older, "mia", 1, 0, at(20, 23, 58)))
		require.Equal(t, []models.Usage{
			usageOf(newer, "mia", 5, 0, at(21, 3, 0)), usageOf(older, "mia", 8, 2, at(21, 0, 0)), usageOf(older, "", 1, 1, at(21, 3, 0)),
			usageOf(older, "mia", 8, 1, at(20, 23, 59)),
		}, f.usage(models.UsageFilter{}))

		other, err := f.ListUsage(t.Context(), acme, "ios", models.UsageFilter{Limit: 10})
		require.NoError(t, err)
		require.Empty(t, other)
	})
}

func TestUsageFilters(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key, other := f.dataPlane("all", nil), f.register(f.shared(olga)), f.register(f.shared(olga))
		require.NoError(t, f.AddUsage(t.Context(), d, models.UsageBatch{ReporterID: "r", Number: 1, Counts: []models.UsageCount{
			used(key, "mia", 1, 0, at(20, 10, 30)), used(key, "mia", 2, 0, at(20, 11, 30)), used(key, "olga", 4, 0, at(20, 12, 30)),
			used(other, "mia", 8, 0, at(20, 12, 0)), used(key, "mia", 16, 0, at(21, 0, 0)),
		}}))
		for _, c := range []struct {
			filter models.UsageFilter
			want   int64
		}{
			{models.UsageFilter{}, 31},
			{models.UsageFilter{KeyID: key.ID}, 23},
			{models.UsageFilter{UserID: "mia"}, 27},
			{models.UsageFilter{Provider: key.Provider}, 31},
			{models.UsageFilter{Provider: "other"}, 0},
			{models.UsageFilter{KeyID: key.ID, UserID: "olga"}, 4},
			{models.UsageFilter{From: at(20, 11, 59)}, 30},
			{models.UsageFilter{To: at(20, 12, 0)}, 3},
			{models.UsageFilter{To: at(20, 12, 0) + 1}, 15},
			{models.UsageFilter{From: at(20, 11, 0), To: at(21, 0, 0)}, 14},
			{models.UsageFilter{From: at(21, 0, 0), To: at(22, 0, 0)}, 16},
			{models.UsageFilter{From: at(21, 1, 0)}, 0},
			{models.UsageFilter{To: at(20, 10, 0)}, 0},
		} {
			var sum int64
			for _, u := range f.usage(c.filter) {
				sum += u.Requests
			}
			require.Equal(t, c.want, sum, "%+v", c.filter)
		}
	})
}

func TestUsagePagesMissAndRepeatNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, keys := f.dataPlane("all", nil), []models.Key{f.register(f.shared(olga)), f.register(f.shared(olga))}
		batch := models.UsageBatch{ReporterID: "r", Number: 1}
		for i := range 40 {
			batch.Counts = append(batch.Counts, used(keys[i%2], []string{"", "mia", "olga", "x.y_z-"}[i/2%4], 1, 0, at(1+i/8, i%24, 0)))
		}
		require.NoError(t, f.AddUsage(t.Context(), d, batch))
		var paged []models.Usage
		for filter := (models.UsageFilter{Limit: 7}); ; {
			page := f.usage(filter)
			if paged = append(paged, page...); len(page) < filter.Limit {
				break
			}
			var ok bool
			filter.After, ok = models.ParseUsageKey(page[len(page)-1].String())
			require.True(t, ok)
		}
		require.Len(t, paged, 40)
		require.Equal(t, f.usage(models.UsageFilter{}), paged)
		require.True(t, slices.IsSortedFunc(paged, func(a, b models.Usage) int { return int(b.Day - a.Day) }), "newest day first")
	})
}

func TestUsageKeyTexts(t *testing.T) {
	const ulid = "01M83VVAHV8M2T5K7N9R4W1XYZ"
	for _, user := range []string{"", "a", strings.Repeat("u", 64)} {
		k := models.UsageKey{Day: 20_780, KeyID: "byok_" + ulid, UserID: user}
		got, ok := models.ParseUsageKey(k.String())
		require.True(t, ok)
		require.Equal(t, k, got)
		require.LessOrEqual(t, len(k.String()), 95, "a page token has at most 128 characters of base64")
	}
	for _, text := range []string{"", "20780", "20780" + ulid[1:], "2078x" + ulid, "-0780" + ulid, "20780" + ulid + "-", "20780" + ulid + "a b"} {
		_, ok := models.ParseUsageKey(text)
		require.False(t, ok, text)
	}
}

func TestARepeatedBatchOfUsageCountsOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, second, key := f.dataPlane("one", nil), f.dataPlane("two", nil), f.register(f.shared(olga))
		count := func() int64 { return f.usage(models.UsageFilter{})[0].Requests }
		add := func(d models.DataPlane, reporter string, number int64) error {
			return f.AddUsage(t.Context(), d, models.UsageBatch{ReporterID: reporter, Number: number,
				Counts: []models.UsageCount{used(key, "mia", 1, 0, at(20, 1, 1))}})
		}
		for _, err := range together(8, func(int) error { return add(d, "r", 5) }) {
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, count())
		require.NoError(t, add(d, "r", 4), "one before the last")
		require.EqualValues(t, 1, count())
		require.NoError(t, add(d, "r", 6))
		require.NoError(t, add(d, "another process", 6))
		require.NoError(t, add(second, "r", 6))
		require.EqualValues(t, 4, count())
	})
}

func TestUsageOfKeysNotServedIsIgnored(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		globex := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "gus"}
		f.addMember(globex, models.RoleOwner)
		ours, theirs := f.register(f.shared(olga)), f.register(f.shared(globex))
		require.NoError(t, f.AddUsage(t.Context(), f.dataPlane("ours", []string{acme}), models.UsageBatch{ReporterID: "r", Number: 1, Counts: []models.UsageCount{
			used(theirs, "gus", 1, 0, at(20, 1, 1)), used(models.Key{ID: "byok_absent"}, "gus", 1, 0, at(20, 1, 1)), used(ours, "mia", 1, 0, at(20, 1, 1)),
		}}))
		require.NoError(t, f.AddUsage(t.Context(), f.dataPlane("none", []string{}), models.UsageBatch{ReporterID: "r", Number: 1,
			Counts: []models.UsageCount{used(ours, "mia", 1, 0, at(20, 1, 1))}}))
		require.Equal(t, 1, f.count("key_usage"))
		require.Equal(t, []models.Usage{usageOf(ours, "mia", 1, 0, at(20, 1, 1))}, f.usage(models.UsageFilter{}))
	})
}

// Eight data planes add to the same rows, each in a different order.
func TestUsageOfManyDataPlanesAddsUp(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const reporters, rounds = 8, 5
		var keys []models.Key
		for range 6 {
			keys = append(keys, f.register(f.shared(olga)))
		}
		d := f.dataPlane("all", nil)
		for _, err := range together(reporters, func(reporter int) error {
			for round := range int64(rounds) {
				b := models.UsageBatch{ReporterID: string(rune('a' + reporter)), Number: round + 1}
				for _, i := range rand.Perm(len(keys)) {
					b.Counts = append(b.Counts, used(keys[i], "mia", 3, 1, at(20, 1, int(round))))
				}
				if err := f.AddUsage(t.Context(), d, b); err != nil {
					return err
				}
			}
			return nil
		}) {
			require.NoError(t, err)
		}
		for _, u := range f.usage(models.UsageFilter{}) {
			require.Equal(t, [3]int64{3 * reporters * rounds, reporters * rounds, at(20, 1, rounds-1)}, [3]int64{u.Requests, u.Refusals, u.LastUsedAt})
		}
	})
}

func TestUsageIsForgottenByTheDay(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("all", nil), f.register(f.shared(olga))
		for i, last := range []int64{at(18, 1, 0), at(18, 2, 0), at(19, 23, 59), at(20, 0, 0), at(21, 5, 0)} {
			require.NoError(t, f.AddUsage(t.Context(), d, models.UsageBatch{ReporterID: string(rune('a' + i)), Number: 1,
				Counts: []models.UsageCount{used(key, "mia", 1, 0, last)}}))
		}
		forget := func(what func(*models.Tx, int64, int) (int64, error), before int64, limit int) (n int64) {
			f.transact(func(tx *models.Tx) (err error) { n, err = what(tx, before, limit); return err })
			return n
		}
		require.EqualValues(t, 2, forget((*models.Tx).ForgetUsage, at(20, 12, 0), 2))
		require.EqualValues(t, 1, forget((*models.Tx).ForgetUsage, at(20, 12, 0), 2))
		require.Zero(t, forget((*models.Tx).ForgetUsage, at(20, 12, 0), 2))
		require.Len(t, f.usage(models.UsageFilter{}), 2)
		require.Zero(t, forget((*models.Tx).ForgetUsageReporters, now()-second(60), 9))
		require.EqualValues(t, 4, forget((*models.Tx).ForgetUsageReporters, now()+1, 4))
		require.EqualValues(t, 1, forget((*models.Tx).ForgetUsageReporters, now()+1, 4))
	})
}
