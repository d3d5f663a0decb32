package kms_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestContractWithCachedDataKeys(t *testing.T) {
	sealertest.Run(t, func(t *testing.T) sealer.Sealer {
		s := kms.New(newService(), kms.Options{CacheTTL: time.Minute})
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	})
}

func TestDataKeysAreCachedForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := newService()
		s := kms.New(key, kms.Options{CacheTTL: time.Minute})
		defer func() { require.NoError(t, s.Close()) }()
		envelope := mustSeal(t, s, 1)
		open := func(n int) error {
			secret, err := s.Open(t.Context(), binding(n), envelope.Bytes)
			if err == nil {
				require.Equal(t, canary, string(secret.Reveal()))
			}
			return err
		}
		key.calls.Store(0)
		for range 10 {
			require.NoError(t, open(1))
		}
		require.EqualValues(t, 1, key.calls.Load())
		require.ErrorIs(t, open(2), sealer.ErrBinding, "the cached key is for its binding alone")
		require.EqualValues(t, 2, key.calls.Load())

		key.before = func(context.Context, string) error { return errAway }
		time.Sleep(59 * time.Second)
		require.NoError(t, open(1), "the service is not needed")
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, open(1), sealer.ErrUnavailable, "a use does not prolong the time")
	})
}

// Otherwise a service that wraps wrongly would be believed.
func TestAProofIsNotTakenFromTheCache(t *testing.T) {
	key := newService()
	s := kms.New(key, kms.Options{CacheTTL: time.Minute})
	defer func() { require.NoError(t, s.Close()) }()
	mustSeal(t, s, 1)
	require.EqualValues(t, 3, key.calls.Load(), "a list, a wrap and an unwrap")
}

func TestAWrongDataKeyIsNotCached(t *testing.T) {
	key := newService()
	s := kms.New(key, kms.Options{CacheTTL: time.Hour})
	defer func() { require.NoError(t, s.Close()) }()
	envelope := mustSeal(t, s, 1)
	key.isWrong.Store(true)
	_, err := s.Open(t.Context(), binding(1), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrBinding)
	key.isWrong.Store(false)
	secret, err := s.Open(t.Context(), binding(1), envelope.Bytes)
	require.NoError(t, err)
	require.Equal(t, canary, string(secret.Reveal()))
}

func TestCachedDataKeysAreDroppedWhileTheyAreUsed(t *testing.T) {
	s := kms.New(newService(), kms.Options{CacheTTL: time.Minute})
	envelope := mustSeal(t, s, 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				secret, err := s.Open(t.Context(), binding(1), envelope.Bytes)
				require.NoError(t, err)
				require.Equal(t, canary, string(secret.Reveal()))
			}
		})
	}
	for range 50 {
		require.NoError(t, s.Close())
	}
	wg.Wait()
}
