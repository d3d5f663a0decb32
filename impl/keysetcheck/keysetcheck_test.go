package keysetcheck_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestMain(m *testing.M) { modelstest.Main(m) }

// check checks the keyset like a process that has just started.
func check(t *testing.T, store *models.Store, s sealer.Sealer, use keysetcheck.Use) error {
	t.Helper()
	return keysetcheck.New(store, s, use).Check(t.Context())
}

func TestSealingFirstCheckMakesTheCanary(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, backend := modelstest.NewStore(t, e), secretstest.Backend(t)
		require.NoError(t, check(t, store, backend, keysetcheck.SealAndOpen))
		row, err := store.Canary(t.Context())
		require.NoError(t, err)
		kek, err := backend.PrimaryKEK(t.Context())
		require.NoError(t, err)
		require.Equal(t, kek, row.KEKID)
		opened, err := backend.Open(t.Context(), sealer.CanaryBinding(), row.Envelope)
		require.NoError(t, err)
		require.Equal(t, 32, opened.Len())
		require.NotEqual(t, make([]byte, 32), opened.Reveal())

		require.NoError(t, check(t, store, backend, keysetcheck.SealAndOpen), "after a restart")
		again, err := store.Canary(t.Context())
		require.NoError(t, err)
		require.Equal(t, row, again)
	})
}

func TestReplicasThatStartAtOnceAgree(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, backend := modelstest.NewStore(t, e), secretstest.Backend(t)
		errs := make([]error, 20)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				checker := keysetcheck.New(store, backend, keysetcheck.SealAndOpen)
				errs[i] = errors.Join(checker.Check(t.Context()), checker.Recheck(t.Context()))
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
	})
}

// With two keysets, each would read only the keys that it has sealed.
func TestSealingCheckAnotherKeyset(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, right := modelstest.NewStore(t, e), secretstest.Backend(t)
		require.NoError(t, check(t, store, right, keysetcheck.SealAndOpen))
		row, err := store.Canary(t.Context())
		require.NoError(t, err)
		for _, use := range []keysetcheck.Use{keysetcheck.SealAndOpen, keysetcheck.OpenOnly} {
			wrong := keysetcheck.New(store, secretstest.Backend(t), use)
			for range 2 {
				err = wrong.Check(t.Context())
				require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)
				require.ErrorContains(t, err, row.KEKID, "which keyset is missing")
			}
		}
		require.NoError(t, check(t, store, right, keysetcheck.SealAndOpen), "and nothing was changed")
	})
}

// sealOnly returns a sealer that can only seal: any other call panics.
func sealOnly(s sealer.Sealer) sealer.Sealer { return sealertest.Fake{SealFunc: s.Seal} }

// openOnly returns a sealer that refuses to seal.
func openOnly(s sealer.Sealer) sealer.Sealer {
	return sealertest.Fake{Sealer: s, SealFunc: func(context.Context, sealer.Binding, sealer.Secret) (sealer.Envelope, error) {
		return sealer.Envelope{}, remote.ErrNotAllowed
	}}
}

// One process only seals and another only opens. Each waits for the other, whichever starts first.
func TestSealingHalvesStartInAnyOrder(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, backend := modelstest.NewStore(t, e), secretstest.Backend(t)
		seals := keysetcheck.New(store, sealOnly(backend), keysetcheck.SealOnly)
		opens := keysetcheck.New(store, openOnly(backend), keysetcheck.OpenOnly)
		require.ErrorIs(t, opens.Check(t.Context()), keysetcheck.ErrNoCanary)
		require.ErrorIs(t, seals.Check(t.Context()), keysetcheck.ErrUnproven, "it makes the canary, and nobody has opened that")
		_, err := seals.Seal(t.Context(), sealer.CanaryBinding(), sealer.NewSecret([]byte("x")))
		require.ErrorIs(t, err, keysetcheck.ErrUnproven)
		require.ErrorIs(t, err, sealer.ErrUnavailable, "clients try again")
		require.NoError(t, opens.Check(t.Context()))
		require.NoError(t, opens.Recheck(t.Context()))
		require.NoError(t, seals.Check(t.Context()))
		require.NoError(t, seals.Recheck(t.Context()))
		_, err = seals.Seal(t.Context(), sealer.CanaryBinding(), sealer.NewSecret([]byte("x")))
		require.NoError(t, err)
	})
}

// A secret sealed under another keyset would be lost.
func TestSealingUnderAKEKThatNobodyFound(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, right := modelstest.NewStore(t, e), secretstest.Backend(t)
		opens := keysetcheck.New(store, right, keysetcheck.SealAndOpen)
		require.NoError(t, opens.Check(t.Context()))
		require.NoError(t, opens.Recheck(t.Context()))
		swapped := &replaceable{Sealer: right}
		seals := keysetcheck.New(store, sealOnly(swapped), keysetcheck.SealOnly)
		require.NoError(t, seals.Check(t.Context()))
		swapped.Sealer = secretstest.Backend(t)
		require.ErrorIs(t, seals.Recheck(t.Context()), keysetcheck.ErrUnproven)
		_, err := seals.Seal(t.Context(), sealer.CanaryBinding(), sealer.NewSecret([]byte("x")))
		require.ErrorIs(t, err, keysetcheck.ErrUnproven)
		require.ErrorIs(t, keysetcheck.New(store, sealOnly(swapped), keysetcheck.SealOnly).Check(t.Context()), keysetcheck.ErrUnproven)
		swapped.Sealer = right
		require.NoError(t, seals.Recheck(t.Context()))
	})
}

// The KEKs of a wrong keyset are never stored as KEKs of this database.
func TestAWrongKeysetProvesNothing(t *testing.T) {
	store := modelstest.NewStore(t, modelstest.EngineSQLite)
	right, wrong := secretstest.Backend(t), secretstest.Backend(t)
	swapped := &replaceable{Sealer: right}
	checker := keysetcheck.New(store, swapped, keysetcheck.SealAndOpen)
	require.NoError(t, checker.Check(t.Context()))
	swapped.Sealer = wrong
	require.ErrorIs(t, checker.Recheck(t.Context()), keysetcheck.ErrWrongKEK)
	kek, err := wrong.PrimaryKEK(t.Context())
	require.NoError(t, err)
	found, err := store.HasKEK(t.Context(), kek)
	require.NoError(t, err)
	require.False(t, found)
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
			err := check(t, store, backend, keysetcheck.SealAndOpen)
			require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)
		})
	}
}

func TestSealingCheckUnavailable(t *testing.T) {
	t.Run("sealer", func(t *testing.T) {
		store := modelstest.NewStore(t, modelstest.EngineSQLite)
		backend := sealertest.NewUnavailable(secretstest.Backend(t))
		checker := keysetcheck.New(store, backend, keysetcheck.SealAndOpen)
		err := checker.Check(t.Context())
		require.ErrorIs(t, err, sealer.ErrUnavailable)
		_, err = store.Canary(t.Context())
		require.ErrorIs(t, err, models.ErrNotFound, "nothing is stored")
		backend.SetAvailable(true)
		require.NoError(t, checker.Check(t.Context()))

		backend.SetAvailable(false)
		err = check(t, store, backend, keysetcheck.SealAndOpen)
		require.ErrorIs(t, err, sealer.ErrUnavailable)
		require.NotErrorIs(t, err, keysetcheck.ErrWrongKEK)
		require.NoError(t, checker.Check(t.Context()), "it has opened")
	})
	t.Run("database", func(t *testing.T) {
		store := modelstest.NewStore(t, modelstest.EngineSQLite)
		require.NoError(t, store.Close())
		require.ErrorIs(t, check(t, store, secretstest.Backend(t), keysetcheck.SealAndOpen), models.ErrUnavailable)
	})
	t.Run("caller has left", func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		leave()
		checker := keysetcheck.New(modelstest.NewStore(t, modelstest.EngineSQLite), secretstest.Backend(t), keysetcheck.SealAndOpen)
		require.ErrorIs(t, checker.Check(ctx), context.Canceled)
		require.NoError(t, checker.Check(t.Context()))
	})
}

// If the keyset is replaced while the service runs, the KEK of the next envelope shows it.
func TestSealingCheckKEKs(t *testing.T) {
	store := modelstest.NewStore(t, modelstest.EngineSQLite)
	right, wrong := secretstest.Backend(t), secretstest.Backend(t)
	swapped := &replaceable{Sealer: right}
	checker := keysetcheck.New(store, swapped, keysetcheck.SealAndOpen)
	require.NoError(t, checker.Check(t.Context()))
	require.NoError(t, checker.CheckKEKs(t.Context(), "the first"))

	swapped.Sealer = wrong
	require.NoError(t, checker.CheckKEKs(t.Context(), "the first"), "it was checked before")
	err := checker.CheckKEKs(t.Context(), "another")
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorIs(t, err, keysetcheck.ErrWrongKEK)

	swapped.Sealer = right
	require.NoError(t, checker.CheckKEKs(t.Context(), "another"), "a failure is not cached")
}

type replaceable struct{ sealer.Sealer }

// All processes that may open the canary make the same fingerprints.
func TestFingerprintsAreOfTheCanary(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store, backend := modelstest.NewStore(t, e), secretstest.Backend(t)
		both := keysetcheck.New(store, backend, keysetcheck.SealAndOpen)
		require.NoError(t, both.Check(t.Context()))
		require.NoError(t, both.Recheck(t.Context()))
		made := func(c *keysetcheck.Checker) []byte {
			key, err := c.Fingerprints(t.Context())
			require.NoError(t, err)
			found, err := key.Of("acme", "sk-1")
			require.NoError(t, err)
			return found[0]
		}
		want := made(both)
		row, err := store.Canary(t.Context())
		require.NoError(t, err)
		canary := sealertest.Fake{SealFunc: backend.Seal, OpenFunc: func(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
			require.Equal(t, sealer.CanaryBinding(), b)
			return backend.Open(ctx, b, row.Envelope)
		}}
		require.Equal(t, want, made(keysetcheck.New(store, canary, keysetcheck.SealOnly)))
		tries := 0
		refused := keysetcheck.New(store, sealertest.Fake{SealFunc: backend.Seal, OpenFunc: func(context.Context, sealer.Binding, []byte) (sealer.Secret, error) {
			tries++
			return sealer.Secret{}, remote.ErrNotAllowed
		}}, keysetcheck.SealOnly)
		for range 3 {
			_, err := refused.Fingerprints(t.Context())
			require.ErrorIs(t, err, keysetcheck.ErrNoFingerprints)
		}
		require.Equal(t, 1, tries, "a refusal is not asked for again at once")
	})
}

func TestFingerprintsCanNotBeJoinedAcrossCustomers(t *testing.T) {
	of := func(random, customer, secret string) string {
		key, err := keysetcheck.NewFingerprintKey([]byte(random))
		require.NoError(t, err)
		require.Equal(t, "[redacted] [redacted]", fmt.Sprintf("%v %#v", key, key))
		found, err := key.Of(customer, secret)
		require.NoError(t, err)
		require.Len(t, found[0], 32)
		return string(found[0])
	}
	one := of("r", "acme", "sk-1")
	require.Equal(t, one, of("r", "acme", "sk-1"))
	for _, other := range []string{of("r", "globex", "sk-1"), of("s", "acme", "sk-1"), of("r", "acme", "sk-2")} {
		require.NotEqual(t, one, other)
	}
}

func TestAPrivateKeyIsTheSameHoweverItsLinesAreBroken(t *testing.T) {
	key, err := keysetcheck.NewFingerprintKey([]byte("r"))
	require.NoError(t, err)
	found, err := key.Of("acme", "-----BEGIN KEY-----\nab\ncd\n-----END KEY-----\n", `-----BEGIN KEY-----\nab\ncd\n-----END KEY-----\n`,
		"  -----BEGIN KEY-----\r\nabcd\r\n-----END KEY-----")
	require.NoError(t, err)
	require.Equal(t, found[0], found[1])
	require.Equal(t, found[0], found[2])
}
