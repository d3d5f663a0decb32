package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func ordered(order, weight int) models.KeyChange {
	return models.KeyChange{Order: &order, Weight: &weight}
}

// Whichever way keys are asked for, they come in their order. Without an arranged key, a fetch reads the newest of each scope alone.
func TestAFetchFindsAllKeysInOrderIfAnyIsArranged(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		first, second, third := f.register(f.shared(olga)), f.register(f.shared(olga)), f.register(f.shared(olga))
		own := f.register(f.own(mia))
		f.register(f.shared(olga, provider("anthropic")))
		find := func(c models.Caller) models.Fetched {
			t.Helper()
			found := f.fetch(d, c)
			all, err := f.Candidates(t.Context(), c, "openai", now())
			require.NoError(t, err)
			require.True(t, all.All)
			if found.All {
				require.Equal(t, ids(all.Project), ids(found.Project))
				require.Equal(t, ids(all.Own), ids(found.Own))
				for i, k := range all.Project {
					require.Equal(t, k.Envelope, found.Project[i].Envelope)
					require.Equal(t, []int{k.Order, k.Weight}, []int{found.Project[i].Order, found.Project[i].Weight})
				}
			}
			return found
		}
		require.Equal(t, []string{third.ID}, ids(find(mia).Project))
		require.False(t, find(mia).All)

		changed, err := f.update(first.ID, ordered(-1, 3))
		require.NoError(t, err)
		require.Equal(t, []int{-1, 3}, []int{changed.Order, changed.Weight})
		require.True(t, find(mia).All)
		require.Equal(t, []string{first.ID, third.ID, second.ID}, ids(find(mia).Project))
		require.Equal(t, []string{own.ID}, ids(find(mia).Own))
		require.Equal(t, "mia", find(mia).Own[0].UserID)
		require.Empty(t, find(project).Own, "without a user, none's own")
		require.Empty(t, find(olga).Own)

		_, err = f.update(third.ID, ordered(1, 0))
		require.NoError(t, err)
		require.Equal(t, []string{first.ID, second.ID, third.ID}, ids(find(mia).Project))
		require.NoError(t, failure(f.update(first.ID, disable)))
		require.Equal(t, []string{second.ID, third.ID}, ids(find(mia).Project))

		require.NoError(t, failure(f.update(third.ID, ordered(0, 0))))
		f.revoke(&first)
		require.False(t, find(mia).All, "a revoked key arranges nothing")
		require.Equal(t, []string{third.ID}, ids(find(mia).Project))
	})
}

func TestAChangeOfOrderIsInItsEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga, func(r *models.Registration) { r.Key.Order = 2 }))
		require.Equal(t, 2, f.list(olga, models.KeyFilter{})[0].Order)
		changed, err := f.update(key.ID, ordered(0, 5))
		require.NoError(t, err)
		require.Equal(t, int64(2), changed.Revision)
		again, err := f.update(key.ID, ordered(0, 5))
		require.NoError(t, err)
		require.Equal(t, changed, again)
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{KeyID: key.ID}, "", 1)
		require.NoError(t, err)
		require.Equal(t, &models.EventState{Order: new(2), Weight: new(0)}, events[0].Before)
		require.Equal(t, &models.EventState{Order: new(0), Weight: new(5)}, events[0].After)
	})
}

func TestRestrictionsComeWithEveryRead(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("all", nil), f.register(f.shared(olga))
		require.True(t, f.list(olga, models.KeyFilter{})[0].Restrictions.IsZero())
		for _, want := range []models.Restrictions{
			{Models: []string{"gpt-4o*"}, Operations: []string{"/chat/completions"}},
			{Users: []string{"mia"}, Models: []string{"gpt-4o*"}, Operations: []string{"/chat/completions"}}, // an arranged key
			{Users: []string{"mia"}},
			{},
		} {
			changed, err := f.update(key.ID, models.KeyChange{Restrict: &models.RestrictionsChange{Users: &want.Users, Models: &want.Models, Operations: &want.Operations}})
			require.NoError(t, err)
			fetched := f.fetch(d, mia)
			byID, _, err := f.FetchByID(t.Context(), d.ID, key.ID, now())
			require.NoError(t, err)
			candidates, err := f.Candidates(t.Context(), mia, "openai", now())
			require.NoError(t, err)
			for _, got := range []models.Key{changed, byID, fetched.Project[0], candidates.Project[0], f.list(olga, models.KeyFilter{})[0]} {
				require.True(t, want.Equal(got.Restrictions), "%+v", got.Restrictions)
			}
			require.Equal(t, len(want.Users) > 0, fetched.All)
		}
	})
}

func TestLimitsComeWithEveryRead(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("all", nil), f.register(f.shared(olga, func(r *models.Registration) { r.Key.Limits.RequestsPerDay = 9 }))
		require.Equal(t, models.Limits{RequestsPerDay: 9}, f.list(olga, models.KeyFilter{})[0].Limits)
		require.NoError(t, failure(f.update(key.ID, ordered(1, 0)))) // an arranged key, and another
		f.register(f.shared(olga, func(r *models.Registration) { r.Key.Order = 2 }))
		for _, step := range []struct {
			change models.LimitsChange
			want   models.Limits
		}{
			{models.LimitsChange{RequestsPerMinute: new(5)}, models.Limits{RequestsPerMinute: 5, RequestsPerDay: 9}},
			{models.LimitsChange{RequestsPerDay: new(0), Concurrent: new(2)}, models.Limits{RequestsPerMinute: 5, Concurrent: 2}},
			{models.LimitsChange{RequestsPerMinute: new(0), RequestsPerDay: new(0), Concurrent: new(0)}, models.Limits{}},
		} {
			changed, err := f.update(key.ID, models.KeyChange{Limit: &step.change})
			require.NoError(t, err)
			again, err := f.update(key.ID, models.KeyChange{Limit: &step.change})
			require.NoError(t, err)
			require.Equal(t, changed.Revision, again.Revision, "the same again is no change")
			byID, _, err := f.FetchByID(t.Context(), d.ID, key.ID, now())
			require.NoError(t, err)
			candidates, err := f.Candidates(t.Context(), mia, "openai", now())
			require.NoError(t, err)
			for _, got := range []models.Key{changed, byID, f.fetch(d, mia).Project[0], candidates.Project[0], f.list(olga, models.KeyFilter{})[1]} {
				require.Equal(t, step.want, got.Limits)
			}
		}
	})
}
