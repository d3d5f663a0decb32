package models_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

const day = int64(24 * time.Hour / time.Microsecond)

var (
	disable = models.KeyChange{Disabled: new(true)}
	enable  = models.KeyChange{Disabled: new(false)}

	errIsRevoked = errors.New("is revoked")
)

func expireAt(at int64) models.KeyChange { return models.KeyChange{ExpiresAt: &at} }

// update changes a key as olga, unless the key is revoked, and returns the key after the change.
func (f *fixture) update(id string, change models.KeyChange) (got models.Key, err error) {
	err = f.change(id, func(tx *models.Tx, k models.Key, newEvent newEvent) error {
		err := tx.UpdateKey(k, change, "olga", newEvent)
		if err == nil {
			got, err = tx.GetKey(olga, id)
		}
		return err
	})
	return got, err
}

// kinds returns the types of the events about a key, oldest first.
func (f *fixture) kinds(id string) (kinds []models.EventType) {
	f.t.Helper()
	events, err := f.ListEvents(f.t.Context(), olga, models.EventFilter{KeyID: id}, "", 1000)
	require.NoError(f.t, err)
	for _, e := range slices.Backward(events) {
		kinds = append(kinds, e.Type)
	}
	return kinds
}

// announce announces the expiries that are due at a time, as a process does.
func (f *fixture) announce(at int64) error {
	return failure(f.AnnounceExpiries(f.t.Context(), at, 10, f.keyEvent))
}

// requireServing checks which key serves olga at a time, with each method that returns serving keys.
func (f *fixture) requireServing(at int64, d models.DataPlane, want string) {
	f.t.Helper()
	serving, err := f.ServingKeys(f.t.Context(), olga, "openai", at)
	require.NoError(f.t, err)
	require.Equal(f.t, want, firstID(serving.Project))
	fetched, err := f.Fetch(f.t.Context(), d.ID, olga, "openai", at)
	require.NoError(f.t, err)
	require.Equal(f.t, want, firstID(fetched.Project))
	candidates, err := f.Candidates(f.t.Context(), olga, "openai", at)
	require.NoError(f.t, err)
	require.Equal(f.t, want, firstID(candidates.Project))
}

func TestADisabledKeyServesNobodyUntilItIsEnabled(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		older, newer := f.register(f.shared(olga)), f.register(f.shared(olga))
		at := f.position()
		f.requireServing(now(), d, newer.ID)

		disabled, err := f.update(newer.ID, disable)
		require.NoError(t, err)
		require.Equal(t, models.StopDisabled, disabled.StopReason(now()))
		require.Equal(t, "olga", disabled.DisabledBy)
		require.Equal(t, int64(2), disabled.Revision)
		change := f.changes(&at)[0]
		require.Equal(t, models.EventKeyDisabled, change.Type)
		require.Equal(t, change.Tx, disabled.DisabledTx, "its number is that of its event")
		f.requireServing(now(), d, older.ID)
		byID, _, err := f.FetchByID(t.Context(), d.ID, newer.ID, now())
		require.NoError(t, err)
		require.Equal(t, models.StopDisabled, byID.StopReason(now()))

		again, err := f.update(newer.ID, disable)
		require.NoError(t, err)
		require.Equal(t, disabled, again, "the first time stands")

		enabled, err := f.update(newer.ID, enable)
		require.NoError(t, err)
		require.Equal(t, []any{int64(0), "", int64(0), int64(3)}, []any{enabled.DisabledAt, enabled.DisabledBy, enabled.DisabledTx, enabled.Revision})
		f.requireServing(now(), d, newer.ID)
		require.Equal(t, []models.EventType{models.EventKeyRegistered, models.EventKeyDisabled, models.EventKeyEnabled}, f.kinds(newer.ID))
	})
}

func TestAKeyServesUntilItsExpiry(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, end := f.dataPlane("all", nil), now()+day
		older := f.register(f.shared(olga))
		newer := f.register(f.shared(olga, func(r *models.Registration) { r.Key.ExpiresAt = end }))
		f.requireServing(end-1, d, newer.ID)
		fetched, err := f.Fetch(t.Context(), d.ID, olga, "openai", end-1)
		require.NoError(t, err)
		require.Equal(t, end, fetched.Project[0].ExpiresAt)
		f.requireServing(end, d, older.ID)
		byID, _, err := f.FetchByID(t.Context(), d.ID, newer.ID, now())
		require.NoError(t, err)
		require.Equal(t, []models.StopReason{"", models.StopExpired}, []models.StopReason{byID.StopReason(end - 1), byID.StopReason(end)})

		_, err = f.update(newer.ID, expireAt(end+day))
		require.NoError(t, err)
		f.requireServing(end, d, newer.ID)
		_, err = f.update(newer.ID, expireAt(0))
		require.NoError(t, err)
		f.requireServing(end+10*day, d, newer.ID)
	})
}

func TestTheLastKeyToStopIsFound(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		last := func(at int64) string {
			t.Helper()
			k, err := f.LastStopped(t.Context(), olga, "openai", []string{"olga", ""}, at)
			require.NoError(t, err)
			return k.ID
		}
		revoked, disabled := f.register(f.shared(olga)), f.register(f.shared(olga))
		expiring := f.register(f.own(olga, func(r *models.Registration) { r.Key.ExpiresAt = now() + day }))
		require.Empty(t, last(now()))
		f.revoke(&revoked)
		require.Equal(t, revoked.ID, last(now()))
		require.NoError(t, failure(f.update(disabled.ID, disable)))
		require.Equal(t, disabled.ID, last(now()))
		require.Equal(t, expiring.ID, last(expiring.ExpiresAt))
		require.NoError(t, failure(f.update(disabled.ID, enable)))
		require.Equal(t, revoked.ID, last(now()))
	})
}

func TestAChangeIsCountedIfSomethingChanged(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key, taken, end := f.register(f.shared(olga, named("first"))), f.register(f.shared(olga, named("taken"))), now()+day
		for _, c := range []struct {
			change   models.KeyChange
			revision int64
		}{
			{enable, 1}, {expireAt(0), 1}, {models.KeyChange{Name: new("first")}, 1},
			{models.KeyChange{Name: new("second")}, 2}, {models.KeyChange{Name: new("second"), ExpiresAt: &end}, 3}, {expireAt(end), 3},
			{models.KeyChange{Name: new("third"), Disabled: new(true), ExpiresAt: new(int64(0))}, 4}, {models.KeyChange{}, 4},
		} {
			k, err := f.update(key.ID, c.change)
			require.NoError(t, err)
			require.Equal(t, c.revision, k.Revision, "%+v", c.change)
		}
		require.Equal(t, []models.EventType{models.EventKeyRegistered, models.EventKeyUpdated, models.EventKeyUpdated, models.EventKeyDisabled, models.EventKeyUpdated}, f.kinds(key.ID))
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{KeyID: key.ID}, "", 1)
		require.NoError(t, err)
		require.Equal(t, &models.EventState{Name: "second", ExpiresAt: end}, events[0].Before)
		require.Equal(t, &models.EventState{Name: "third"}, events[0].After)

		require.ErrorIs(t, failure(f.update(key.ID, models.KeyChange{Name: new("taken")})), models.ErrAlreadyExists)
		f.revoke(&taken)
		require.NoError(t, failure(f.update(key.ID, models.KeyChange{Name: new("taken")})))
		f.revoke(&key)
		require.Equal(t, int64(6), key.Revision)
	})
}

func TestDisablesAndEnablesTakeTurns(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		for i, err := range together(24, func(i int) error { return failure(f.update(key.ID, []models.KeyChange{disable, enable}[i%2])) }) {
			require.NoError(t, err, i)
		}
		k, err := f.GetKey(t.Context(), olga, key.ID, now())
		require.NoError(t, err)
		balance := map[models.EventType]int{}
		for _, kind := range f.kinds(key.ID) {
			balance[kind]++
		}
		disables, enables := balance[models.EventKeyDisabled], balance[models.EventKeyEnabled]
		require.Equal(t, k.DisabledAt != 0, disables == enables+1, "%d disables, %d enables", disables, enables)
		require.Equal(t, k.DisabledAt == 0, disables == enables)
		require.Equal(t, int64(1+disables+enables), k.Revision)
	})
}

func TestARevokedKeyIsNotEnabledByARace(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		for range 8 {
			key := f.register(f.shared(olga))
			for i, err := range together(6, func(i int) error {
				if i == 0 {
					return f.tryRevoke(t.Context(), new(key))
				}
				return failure(f.update(key.ID, []models.KeyChange{disable, enable, expireAt(now() + int64(i)*day)}[i%3]))
			}) {
				if !errors.Is(err, errIsRevoked) {
					require.NoError(t, err, i)
				}
			}
			k, err := f.GetKey(t.Context(), olga, key.ID, now())
			require.NoError(t, err)
			require.Equal(t, models.StopRevoked, k.StopReason(now()))
			require.Equal(t, key.ID, k.Stop().ID())
			f.requireServing(now(), d, "")
			require.NoError(t, f.announce(k.ExpiresAt+1))
			require.NotContains(t, f.kinds(key.ID), models.EventKeyExpired)
		}
	})
}

func TestExpiriesAreAnnouncedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		end := now() + 40*day
		key := f.register(f.shared(olga, func(r *models.Registration) { r.Key.ExpiresAt = end }))
		soon := f.register(f.shared(olga, func(r *models.Registration) { r.Key.ExpiresAt = now() + 2*day }))
		want := []models.EventType{models.EventKeyRegistered}
		for _, step := range []struct {
			at   int64
			kind models.EventType
		}{
			{now(), ""}, {end - 30*day - 1, ""}, {end - 30*day, models.EventKeyExpiring}, {end - 8*day, ""}, {end - 7*day, models.EventKeyExpiring},
			{end - day - 1, ""}, {end - day + 5, models.EventKeyExpiring}, {end - 1, ""}, {end, models.EventKeyExpired}, {end + day, ""},
		} {
			for _, err := range together(4, func(int) error { return f.announce(step.at) }) {
				require.NoError(t, err)
			}
			if step.kind != "" {
				want = append(want, step.kind)
			}
			require.Equal(t, want, f.kinds(key.ID), "%d before the end", end-step.at)
		}
		require.Equal(t, []models.EventType{models.EventKeyRegistered, models.EventKeyExpired}, f.kinds(soon.ID),
			"nobody was there when it was due to be announced that it would expire")
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{KeyID: key.ID, Type: models.EventKeyExpired}, "", 10)
		require.NoError(t, err)
		require.Equal(t, &models.EventState{ExpiresAt: end}, events[0].After)

		require.NoError(t, failure(f.update(key.ID, expireAt(end+10*day))))
		require.NoError(t, f.announce(end+10*day))
		require.Equal(t, append(want, models.EventKeyUpdated, models.EventKeyExpired), f.kinds(key.ID), "another end is announced anew")
	})
}

func TestAnExtensionRacesTheExpiry(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for range 8 {
			end := now() + 3*day
			key := f.register(f.shared(olga, func(r *models.Registration) { r.Key.ExpiresAt = end }))
			for _, err := range together(3, func(i int) error {
				if i == 0 {
					return failure(f.update(key.ID, expireAt(end+day)))
				}
				return f.announce(end)
			}) {
				require.NoError(t, err)
			}
			k, err := f.GetKey(t.Context(), olga, key.ID, now())
			require.NoError(t, err)
			require.Equal(t, end+day, k.ExpiresAt)
			require.NoError(t, f.announce(end+day))
			expired := 0
			for _, kind := range f.kinds(key.ID) {
				if kind == models.EventKeyExpired {
					expired++
				}
			}
			require.LessOrEqual(t, expired, 2, "one for each end")
			require.GreaterOrEqual(t, expired, 1)
		}
	})
}

func TestEachDisablingHasItsOwnReceipts(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		disableAgain := func() models.Key {
			require.NoError(t, failure(f.update(key.ID, enable)))
			k, err := f.update(key.ID, disable)
			require.NoError(t, err)
			return k
		}
		first := disableAgain()
		require.NoError(t, f.SaveReceipts(t.Context(), []models.Receipt{{StopID: first.Stop().ID(), ReplicaID: "r1", DataPlanes: 1, Acknowledged: 1}}))
		second := disableAgain()
		receipts, _ := f.receipts(second)
		require.Empty(t, receipts)
		receipts, _ = f.receipts(first)
		require.Len(t, receipts, 1)
	})
}

func TestAKeyIsStaleAfter90Days(t *testing.T) {
	end := 100*day + 90*day
	key := models.Key{CreatedAt: 100 * day}
	require.Zero(t, key.StaleSince(end-1))
	require.Equal(t, end, key.StaleSince(end))
	key.LastUsedAt = 101 * day
	require.Zero(t, key.StaleSince(end))
	require.Equal(t, end+day, key.StaleSince(end+5*day))
	key.RevokedAt = 1
	require.Zero(t, key.StaleSince(end+5*day))
}

func ordered(order, weight int) models.KeyChange {
	return models.KeyChange{Order: &order, Weight: &weight}
}

// Every method returns keys sorted by Order. If no key is arranged, a fetch reads only the newest key of each scope.
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
