package keysetcheck_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestMain(m *testing.M) {
	code := modelstest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func fingerprintKey(t *testing.T, store *models.Store, s sealer.Sealer) []byte {
	t.Helper()
	v, err := keysetcheck.New(store, s).FingerprintKey(t.Context())
	require.NoError(t, err)
	return v
}

func TestSealingFingerprintKey(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, backend := modelstest.NewStore(t, e), secretstest.Backend(t)
		first := fingerprintKey(t, store, backend)
		require.Len(t, first, 32)
		require.NotEqual(t, make([]byte, 32), first)
		require.Equal(t, first, fingerprintKey(t, store, backend), "after a restart")
		other := modelstest.NewStore(t, e)
		require.NotEqual(t, first, fingerprintKey(t, other, backend), "another database has another value")
		t.Run("it is stored sealed only", func(t *testing.T) {
			row, err := store.Canary(t.Context())
			require.NoError(t, err)
			require.NotContains(t, string(row.Envelope), string(first[:8]))
			kek, err := backend.PrimaryKEK(t.Context())
			require.NoError(t, err)
			require.Equal(t, kek, row.KEKID)
		})
	})
}

func TestFingerprintKeyOfConcurrentReplicas(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, backend := modelstest.NewStore(t, e), secretstest.Backend(t)
		const replicas = 20
		got, errs := make([][]byte, replicas), make([]error, replicas)
		var wg sync.WaitGroup
		for i := range replicas {
			wg.Go(func() { got[i], errs[i] = keysetcheck.New(store, backend).FingerprintKey(t.Context()) })
		}
		wg.Wait()
		for i := range replicas {
			require.NoError(t, errs[i])
			require.Equal(t, got[0], got[i])
		}
	})
}

// With two keysets the keys of one database would be split in two, each half unreadable by the other.
func TestSealingCheckAnotherKeyset(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, right := modelstest.NewStore(t, e), secretstest.Backend(t)
		want := fingerprintKey(t, store, right)
		row, err := store.Canary(t.Context())
		require.NoError(t, err)
		wrong := keysetcheck.New(store, secretstest.Backend(t))
		for range 2 {
			_, err = wrong.FingerprintKey(t.Context())
			require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)
			require.ErrorContains(t, err, row.KEKID, "which keyset is missing")
		}
		require.Equal(t, want, fingerprintKey(t, store, right), "and nothing was changed")
	})
}

func TestCheckDamagedCanary(t *testing.T) {
	backend := secretstest.Backend(t)
	sound, err := backend.Seal(t.Context(), sealer.Binding{CustomerID: "-", ProjectID: "-", KeyID: "canary", Provider: "-", Version: 2}, sealer.NewSecret(make([]byte, 32)))
	require.NoError(t, err)
	for name, envelope := range map[string][]byte{"no envelope": []byte("damaged"), "of another binding": sound.Bytes} {
		t.Run(name, func(t *testing.T) {
			store := modelstest.NewStore(t, modelstest.EngineSQLite)
			require.NoError(t, store.Transact(t.Context(), func(tx *models.Tx) error {
				_, err := tx.KeepCanary(models.Canary{Envelope: envelope, KEKID: "x"})
				return err
			}))
			_, err := keysetcheck.New(store, backend).FingerprintKey(t.Context())
			require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)
		})
	}
}

func TestSealingCheckUnavailable(t *testing.T) {
	t.Run("sealer", func(t *testing.T) {
		store := modelstest.NewStore(t, modelstest.EngineSQLite)
		backend := sealertest.NewUnavailable(secretstest.Backend(t))
		checker := keysetcheck.New(store, backend)
		_, err := checker.FingerprintKey(t.Context())
		require.ErrorIs(t, err, sealer.ErrUnavailable)
		_, err = store.Canary(t.Context())
		require.ErrorIs(t, err, models.ErrNotFound, "nothing is stored")
		backend.SetAvailable(true)
		created, err := checker.FingerprintKey(t.Context())
		require.NoError(t, err)

		backend.SetAvailable(false)
		_, err = keysetcheck.New(store, backend).FingerprintKey(t.Context())
		require.ErrorIs(t, err, sealer.ErrUnavailable)
		require.NotErrorIs(t, err, keysetcheck.ErrWrongKEK)
		again, err := checker.FingerprintKey(t.Context())
		require.NoError(t, err, "the value is cached")
		require.Equal(t, created, again)
	})
	t.Run("database", func(t *testing.T) {
		store := modelstest.NewStore(t, modelstest.EngineSQLite)
		require.NoError(t, store.Close())
		_, err := keysetcheck.New(store, secretstest.Backend(t)).FingerprintKey(t.Context())
		require.ErrorIs(t, err, models.ErrUnavailable)
	})
	t.Run("caller has left", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		leave()
		checker := keysetcheck.New(modelstest.NewStore(t, modelstest.EngineSQLite), secretstest.Backend(t))
		_, err := checker.FingerprintKey(ctx)
		require.ErrorIs(t, err, context.Canceled)
		_, err = checker.FingerprintKey(t.Context())
		require.NoError(t, err)
	})
}

// A keyset that is replaced while the service runs is noticed by the KEK of the next envelope.
func TestSealingCheckKEKs(t *testing.T) {
	store := modelstest.NewStore(t, modelstest.EngineSQLite)
	right, wrong := secretstest.Backend(t), secretstest.Backend(t)
	swapped := &replaceable{Sealer: right}
	checker := keysetcheck.New(store, swapped)
	_, err := checker.FingerprintKey(t.Context())
	require.NoError(t, err)
	require.NoError(t, checker.CheckKEKs(t.Context(), "the first"))

	swapped.Sealer = wrong
	require.NoError(t, checker.CheckKEKs(t.Context(), "the first"), "it was checked before")
	err = checker.CheckKEKs(t.Context(), "another")
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)

	swapped.Sealer = right
	require.NoError(t, checker.CheckKEKs(t.Context(), "another"), "a failure is not cached")
}

type replaceable struct{ sealer.Sealer }
