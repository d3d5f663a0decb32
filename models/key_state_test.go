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

// update changes a key as olga, unless it is revoked, and returns it as it is then.
func (f *fixture) update(id string, change models.KeyChange) (k models.Key, err error) {
	err = f.Transact(f.t.Context(), func(tx *models.Tx) error {
		if k, err = tx.LockKey(olga, id); err != nil {
			return err
		}
		if k.RevokedAt != 0 {
			return errIsRevoked
		}
		err := tx.UpdateKey(k, change, "olga", func(kind models.EventType) models.Event { return f.event(kind, about(id)) })
		if err != nil {
			return err
		}
		k, err = tx.GetKey(olga, id)
		return err
	})
	return k, err
}

// kinds are the types of the events about a key since a position, in their order.
func (f *fixture) kinds(id string) (kinds []models.EventType) {
	f.t.Helper()
	events, err := f.ListEvents(f.t.Context(), olga, models.EventFilter{KeyID: id}, "", 1000)
	require.NoError(f.t, err)
	for _, e := range slices.Backward(events) {
		kinds = append(kinds, e.Type)
	}
	return kinds
}

// announce announces what is due at a time, as a process does.
func (f *fixture) announce(at int64) error {
	return failure(f.AnnounceExpiries(f.t.Context(), at, 10, func(kind models.EventType, k models.Key) models.Event {
		return f.event(kind, about(k.ID))
	}))
}

// requireServing requires what serves olga at a time, whichever way it is asked for.
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
