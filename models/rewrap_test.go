package models_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// sealed returns a key with its envelope.
func (f *fixture) sealed(id string) models.Key {
	f.t.Helper()
	k, err := f.SealedVersion(f.t.Context(), id, 0)
	require.NoError(f.t, err)
	return k
}

// rewrapping returns a new envelope for a key under another KEK.
func rewrapping(k models.Key) models.Rewrapping {
	return models.Rewrapping{KeyID: k.ID, Version: k.Version, Old: k.Envelope, New: []byte("re-wrapped " + k.ID), KEKID: "kek-2"}
}

func TestARewrapChangesTheEnvelopeAndNothingElse(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		wholeRow := func(id string) models.Key {
			sealed := f.sealed(id)
			whole, err := f.GetKey(t.Context(), mia, id, now())
			require.NoError(t, err)
			whole.Envelope, whole.KEKID = sealed.Envelope, sealed.KEKID
			return whole
		}
		active, revoked, own := f.register(f.shared(olga)), f.register(f.shared(olga)), f.register(f.own(mia))
		f.revoke(&revoked)
		keys := []models.Key{active, revoked, own}
		var before []models.Key
		var batch []models.Rewrapping
		for _, k := range keys {
			before = append(before, wholeRow(k.ID))
			batch = append(batch, rewrapping(f.sealed(k.ID)))
		}
		events := f.size().events
		stored, err := f.Rewrap(t.Context(), batch)
		require.NoError(t, err)
		require.ElementsMatch(t, ids(keys), stored)
		for i, k := range keys {
			want := before[i]
			want.Envelope, want.KEKID = batch[i].New, "kek-2"
			require.Equal(t, want, wholeRow(k.ID))
		}
		require.Equal(t, events, f.size().events)
		none, err := f.Rewrap(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, none)
	})
}

func TestARewrapOfWhatHasChangedWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key, other := f.sealed(f.register(f.shared(olga)).ID), f.sealed(f.register(f.shared(olga)).ID)
		for name, change := range map[string]func(*models.Rewrapping){
			"another version":  func(r *models.Rewrapping) { r.Version++ },
			"another envelope": func(r *models.Rewrapping) { r.Old = []byte("older") },
			"a longer one":     func(r *models.Rewrapping) { r.Old = append(bytes.Clone(r.Old), 0) },
			"no such key":      func(r *models.Rewrapping) { r.KeyID = "byok_absent" },
		} {
			t.Run(name, func(t *testing.T) {
				stale, sound := rewrapping(key), rewrapping(f.sealed(other.ID))
				change(&stale)
				stored, err := f.Rewrap(t.Context(), []models.Rewrapping{stale, sound})
				require.NoError(t, err)
				require.Equal(t, []string{other.ID}, stored, "its neighbours are stored")
				require.Equal(t, key, f.sealed(key.ID))
			})
		}
	})
}

func TestOfManyRewrapsOfTheSameKeysOneStores(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const jobs, keys = 8, 40
		var batch []models.Rewrapping
		for range keys {
			batch = append(batch, rewrapping(f.sealed(f.register(f.shared(olga)).ID)))
		}
		stored := map[string]int{}
		for _, ids := range together(jobs, func(job int) []string {
			own := make([]models.Rewrapping, keys)
			for i, r := range batch {
				r.New = fmt.Appendf(nil, "%s by %d", r.New, job)
				own[(i*7+job*5)%keys] = r // each in an order of its own
			}
			ids, err := f.Rewrap(t.Context(), own)
			require.NoError(t, err)
			return ids
		}) {
			for _, id := range ids {
				stored[id]++
			}
		}
		for _, r := range batch {
			require.LessOrEqual(t, stored[r.KeyID], 1)
			require.Equal(t, stored[r.KeyID] == 1, f.sealed(r.KeyID).KEKID == "kek-2")
		}
		require.NotEmpty(t, stored)
	})
}

func TestARewrapWaitsForNoTransactionThatHoldsAKey(t *testing.T) {
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{})
	held, free := f.sealed(f.register(f.shared(olga)).ID), f.sealed(f.register(f.shared(olga)).ID)
	batch := []models.Rewrapping{rewrapping(held), rewrapping(free)}
	f.transact(func(tx *models.Tx) error {
		if _, err := tx.RevokeKey(&models.Key{ID: held.ID}, "olga", f.event(models.EventKeyRevoked)); err != nil {
			return err
		}
		stored, err := f.Rewrap(t.Context(), batch)
		require.NoError(t, err)
		require.Equal(t, []string{free.ID}, stored)
		return nil
	})
	stored, err := f.Rewrap(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, []string{held.ID}, stored, "what was revoked meanwhile is re-wrapped later, and stays revoked")
	require.NotZero(t, f.sealed(held.ID).RevokedAt)
}

func TestSealedKeysComeOfAllCustomersInTheOrderOfTheirIDs(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		all := func(page int) (all []models.Key) { // read in pages
			for after := ""; ; after = all[len(all)-1].ID {
				keys, err := f.SealedKeys(t.Context(), after, page)
				require.NoError(t, err)
				if all = append(all, keys...); len(keys) < page {
					return all
				}
			}
		}
		require.Empty(t, all(3))
		globex := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "gus"}
		f.addMember(globex, models.RoleOwner)
		want := []models.Key{f.register(f.shared(olga)), f.register(f.own(mia)), f.register(f.shared(globex)), f.register(f.own(moe)),
			f.register(f.shared(olga)), f.register(f.shared(globex))}
		f.revoke(&want[3])
		for page := 1; page < 8; page++ {
			require.Equal(t, ids(want), ids(all(page)), "%d a page", page)
		}
		got := all(10)
		require.NotZero(t, got[3].RevokedAt)
		require.Equal(t, []any{want[1].Envelope, "kek-1", uint32(1), "mia", "openai", acme}, []any{got[1].Envelope, got[1].KEKID,
			got[1].Version, got[1].UserID, got[1].Provider, got[1].CustomerID})

		theirs, err := f.SealedKeysOf(t.Context(), "globex", web, "", 10)
		require.NoError(t, err)
		require.Equal(t, []string{want[2].ID, want[5].ID}, ids(theirs))
		theirs, err = f.SealedKeysOf(t.Context(), "globex", web, want[2].ID, 10)
		require.NoError(t, err)
		require.Equal(t, []string{want[5].ID}, ids(theirs))
		_, err = f.SealedVersion(t.Context(), "byok_absent", 0)
		require.ErrorIs(t, err, models.ErrNotFound)
	})
}
