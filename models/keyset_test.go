package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func TestAllWhoKeepACanaryAgreeOnTheFirst(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		_, err := f.Canary(t.Context())
		require.ErrorIs(t, err, models.ErrNotFound)
		type kept struct {
			canary models.Canary
			err    error
		}
		answers := together(16, func(i int) (k kept) {
			k.err = f.Transact(t.Context(), func(tx *models.Tx) (err error) {
				k.canary, err = tx.KeepCanary(models.Canary{Envelope: []byte{0, byte(i)}, KEKID: string(rune('a' + i))})
				return err
			})
			return k
		})
		stands, err := f.Canary(t.Context())
		require.NoError(t, err)
		require.NotZero(t, stands.CreatedAt)
		for _, a := range answers {
			require.NoError(t, a.err)
			require.Equal(t, stands, a.canary)
		}
		require.Equal(t, string(rune('a'+stands.Envelope[1])), stands.KEKID, "its fields are of one canary")
	})
}

func TestTheCanaryIsRewrappedOnceOnly(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		next := models.Canary{Envelope: []byte("re-wrapped"), KEKID: "kek-2"}
		stored, err := f.RewrapCanary(t.Context(), []byte("sealed"), next)
		require.NoError(t, err)
		require.False(t, stored, "there is none")
		f.transact(func(tx *models.Tx) error {
			_, err := tx.KeepCanary(models.Canary{Envelope: []byte("sealed"), KEKID: "kek-1"})
			return err
		})
		for i, want := range []bool{true, false} {
			stored, err := f.RewrapCanary(t.Context(), []byte("sealed"), next)
			require.NoError(t, err)
			require.Equal(t, want, stored, "time %d", i+1)
		}
		got, err := f.Canary(t.Context())
		require.NoError(t, err)
		require.Equal(t, []any{next.Envelope, next.KEKID}, []any{got.Envelope, got.KEKID})
		require.NotZero(t, got.CreatedAt)
	})
}

func TestKEKsAreKeptOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		found, err := f.HasKEK(t.Context(), "kek-1")
		require.NoError(t, err)
		require.False(t, found)
		for _, err := range together(16, func(int) error { return f.AddKEKs(t.Context(), []string{"kek-1", "kek-2"}) }) {
			require.NoError(t, err)
		}
		require.NoError(t, f.AddKEKs(t.Context(), []string{"kek-2", "kek-3"}))
		require.Equal(t, 3, f.count("keks"))
		for id, want := range map[string]bool{"kek-1": true, "kek-2": true, "kek-3": true, "kek": false, "": false} {
			found, err = f.HasKEK(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, want, found, id)
		}
	})
}
