package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

const canary = "sk-canary-0123456789"

var errAway = fmt.Errorf("%w: connection refused", sealer.ErrUnavailable)

func binding(key int) sealer.Binding {
	return sealer.Binding{CustomerID: "acme", ProjectID: "p1", KeyID: fmt.Sprintf("byok_%d", key), Provider: "openai", Version: 1}
}

// service is a key of a key management service in memory. Its version n is primary, for an id fake:vn.
type service struct {
	primary atomic.Int64
	calls   atomic.Int64
	before  func(ctx context.Context, operation string) error // nil lets all calls through
	isWrong atomic.Bool                                       // what version 1 has wrapped unwraps to other data keys
}

func newService() *service {
	s := &service{}
	s.primary.Store(1)
	return s
}

func (s *service) enter(ctx context.Context, operation string) error {
	s.calls.Add(1)
	if s.before == nil {
		return ctx.Err()
	}
	return errors.Join(ctx.Err(), s.before(ctx, operation))
}

func (s *service) Owns(kekID string) bool { return strings.HasPrefix(kekID, "fake:v") }

func (s *service) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	return []sealer.KEK{{ID: fmt.Sprintf("fake:v%d", s.primary.Load()), State: sealer.KEKPrimary}}, s.enter(ctx, "list")
}

func (s *service) cipher(kekID string) (*subtle.AESGCM, error) {
	var version int64
	if _, err := fmt.Sscanf(kekID, "fake:v%d", &version); err != nil || version < 1 || version > s.primary.Load() {
		return nil, sealer.ErrUnknownKEK
	}
	return subtle.NewAESGCM(bytes.Repeat([]byte{byte(version)}, 32))
}

func (s *service) Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	cipher, err := s.cipher(kekID)
	if err := errors.Join(err, s.enter(ctx, "wrap")); err != nil {
		return nil, err
	}
	return cipher.Encrypt(dataKey, associatedData)
}

func (s *service) Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	cipher, err := s.cipher(kekID)
	if err := errors.Join(err, s.enter(ctx, "unwrap")); err != nil {
		return nil, err
	}
	dataKey, err := cipher.Decrypt(wrapped, associatedData)
	if err != nil {
		return nil, sealer.ErrBinding
	}
	if s.isWrong.Load() && kekID == "fake:v1" {
		dataKey[0] ^= 1
	}
	return dataKey, nil
}

// inBatches adds batches to a service.
type inBatches struct{ *service }

func (s inBatches) WrapAll(ctx context.Context, items []sealer.KeyItem) ([][]byte, error) {
	return s.all(ctx, items, s.Wrap)
}

func (s inBatches) UnwrapAll(ctx context.Context, items []sealer.KeyItem) ([][]byte, error) {
	return s.all(ctx, items, s.Unwrap)
}

func (s inBatches) all(
	ctx context.Context, items []sealer.KeyItem, one func(context.Context, string, []byte, []byte) ([]byte, error),
) (keys [][]byte, err error) {
	s.calls.Add(int64(1 - len(items))) // it is one call
	for _, item := range items {
		key, err := one(ctx, item.KEKID, item.Key, item.AssociatedData)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func seal(t *testing.T, s sealer.Sealer, key int) (sealer.Envelope, error) {
	return s.Seal(t.Context(), binding(key), sealer.NewSecret([]byte(canary)))
}

func mustSeal(t *testing.T, s sealer.Sealer, key int) sealer.Envelope {
	t.Helper()
	envelope, err := seal(t, s, key)
	require.NoError(t, err)
	return envelope
}

func TestContract(t *testing.T) {
	sealertest.Run(t, func(*testing.T) sealer.Sealer { return kms.New(newService(), kms.Options{}) })
}

func TestAnOutageIsNotAskedAboutByEachCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := newService()
		s := kms.New(key, kms.Options{})
		envelope := mustSeal(t, s, 1)
		key.before = func(context.Context, string) error { return errAway }
		open := func() error {
			_, err := s.Open(t.Context(), binding(1), envelope.Bytes)
			return err
		}
		key.calls.Store(0)
		for range 100 {
			require.ErrorIs(t, open(), sealer.ErrUnavailable)
		}
		require.EqualValues(t, 5, key.calls.Load(), "after five failures none is sent")
		require.ErrorContains(t, open(), "not asked, as the last 5 calls failed; the last one: sealer unavailable: connection refused")

		time.Sleep(1100 * time.Millisecond)
		require.ErrorIs(t, open(), sealer.ErrUnavailable)
		require.EqualValues(t, 6, key.calls.Load(), "one trial")
		require.ErrorIs(t, open(), sealer.ErrUnavailable)
		require.EqualValues(t, 6, key.calls.Load())

		key.before = nil
		time.Sleep(1100 * time.Millisecond)
		require.NoError(t, open())
		require.NoError(t, open())
	})
}

func TestAHangingServiceIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := newService()
		s := kms.New(key, kms.Options{Timeout: 3 * time.Second})
		envelope := mustSeal(t, s, 1)
		key.before = func(ctx context.Context, _ string) error { <-ctx.Done(); return errAway }
		began := time.Now()
		for range 5 {
			_, err := s.Open(t.Context(), binding(1), envelope.Bytes)
			require.ErrorIs(t, err, sealer.ErrUnavailable)
			require.ErrorContains(t, err, "did not answer within 3s")
		}
		require.Equal(t, 15*time.Second, time.Since(began))
		_, err := s.Open(t.Context(), binding(1), envelope.Bytes)
		require.ErrorContains(t, err, "not asked")
		require.Equal(t, 15*time.Second, time.Since(began), "later callers don't wait")
	})
}

// Waiting for a free slot counts against the time limit.
func TestCallsAtOnceAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := newService()
		s := kms.New(key, kms.Options{})
		envelope := mustSeal(t, s, 1)
		var now, most atomic.Int64
		key.before = func(context.Context, string) error {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(100 * time.Millisecond)
			now.Add(-1)
			return nil
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				_, err := s.Open(t.Context(), binding(1), envelope.Bytes)
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.EqualValues(t, 64, most.Load())
	})
}

func TestAnswersAndLeaversOpenNoCircuit(t *testing.T) {
	key := newService()
	s := kms.New(key, kms.Options{})
	envelope := mustSeal(t, s, 1)
	for range 20 {
		_, err := s.Open(t.Context(), binding(2), envelope.Bytes)
		require.ErrorIs(t, err, sealer.ErrBinding)
	}
	key.before = func(context.Context, string) error { return kms.ErrRefused }
	for range 20 {
		_, err := s.Open(t.Context(), binding(1), envelope.Bytes)
		require.ErrorIs(t, err, kms.ErrRefused)
	}
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		key.before = func(context.Context, string) error { cancel(); return errAway }
		_, err := s.Open(ctx, binding(1), envelope.Bytes)
		require.ErrorIs(t, err, context.Canceled)
	}
	key.before = nil
	_, err := s.Open(t.Context(), binding(1), envelope.Bytes)
	require.NoError(t, err)
}

func TestForeignKEKsAreKnownDuringAnOutage(t *testing.T) {
	key, before := newService(), sealertest.New(t)
	key.before = func(context.Context, string) error { return errAway }
	s := sealer.Migrating(kms.New(key, kms.Options{}), before)
	old := mustSeal(t, before, 1)
	for range 10 {
		_, err := seal(t, s, 2)
		require.ErrorIs(t, err, sealer.ErrUnavailable)
		secret, err := s.Open(t.Context(), binding(1), old.Bytes)
		require.NoError(t, err)
		require.Equal(t, canary, string(secret.Reveal()))
	}
}

func TestWhatDoesNotUnwrapIsNotSealed(t *testing.T) {
	for name, wrong := range map[string]wrongService{
		"another data key": {wrap: func(key *service, id string, _, ad []byte) ([]byte, error) {
			return key.Wrap(context.Background(), id, make([]byte, 32), ad)
		}},
		"other bytes": {wrap: func(*service, string, []byte, []byte) ([]byte, error) { return []byte("wrapped"), nil }},
		"no associated data": {wrap: func(key *service, id string, k, _ []byte) ([]byte, error) {
			return key.Wrap(context.Background(), id, k, nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			wrong.service = newService()
			s := kms.New(wrong, kms.Options{})
			_, err := seal(t, s, 1)
			require.ErrorIs(t, err, sealer.ErrUnavailable)
			require.ErrorContains(t, err, "does not unwrap to the same; nothing was sealed")
			require.NotErrorIs(t, err, sealer.ErrBinding)
		})
	}
	t.Run("without the right to unwrap it is sealed unproven", func(t *testing.T) {
		key := newService()
		mustSeal(t, kms.New(key, kms.Options{WrapOnly: true}), 1)
		require.EqualValues(t, 2, key.calls.Load(), "a list and a wrap")
	})
}

// wrongService wraps wrongly.
type wrongService struct {
	*service
	wrap func(key *service, kekID string, dataKey, associatedData []byte) ([]byte, error)
}

func (w wrongService) Wrap(_ context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	return w.wrap(w.service, kekID, dataKey, associatedData)
}

func TestTheListIsCachedForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := newService()
		s := kms.New(key, kms.Options{})
		for range 10 {
			_, err := s.PrimaryKEK(t.Context())
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, key.calls.Load())
		key.primary.Store(2)
		time.Sleep(1100 * time.Millisecond)
		require.Equal(t, "fake:v2", mustSeal(t, s, 1).KEKID)
	})
}

func TestARetiredPrimaryIsReplacedAtOnce(t *testing.T) {
	key := newService()
	s := kms.New(key, kms.Options{})
	mustSeal(t, s, 1)
	key.primary.Store(2)
	var once sync.Once
	key.before = func(_ context.Context, operation string) (err error) {
		if operation == "wrap" {
			once.Do(func() { err = sealer.ErrUnknownKEK })
		}
		return err
	}
	require.Equal(t, "fake:v2", mustSeal(t, s, 2).KEKID)
}

func TestRewrapAll(t *testing.T) {
	for name, tc := range map[string]struct {
		backend func(*service) kms.Key
		calls   int64
	}{
		"in batches": {func(s *service) kms.Key { return inBatches{s} }, 4}, // list, unwrap, wrap, proof
		"one by one": {func(s *service) kms.Key { return s }, 1 + 3*50},
	} {
		t.Run(name, func(t *testing.T) {
			key := newService()
			backend := tc.backend(key)
			before := kms.New(backend, kms.Options{})
			items := make([]sealer.Item, 50)
			for i := range items {
				items[i] = sealer.Item{Binding: binding(i), Envelope: mustSeal(t, before, i).Bytes}
			}
			key.primary.Store(2)
			key.calls.Store(0)
			s := kms.New(backend, kms.Options{})
			results, err := s.RewrapAll(t.Context(), items)
			require.NoError(t, err)
			require.Equal(t, tc.calls, key.calls.Load())
			for i, result := range results {
				require.NoError(t, result.Err)
				require.Equal(t, "fake:v2", result.Envelope.KEKID)
				secret, err := s.Open(t.Context(), items[i].Binding, result.Envelope.Bytes)
				require.NoError(t, err)
				require.Equal(t, canary, string(secret.Reveal()))
			}
			bad := slices.Clone(items)
			bad[3].Binding, bad[4].Envelope, bad[5].Binding.Version = binding(99), []byte("x"), 0
			bad[6].Envelope = mustSeal(t, sealertest.New(t), 6).Bytes
			bad[7].Envelope = results[7].Envelope.Bytes // current already
			results, err = s.RewrapAll(t.Context(), bad)
			require.NoError(t, err)
			for i, want := range map[int]error{3: sealer.ErrBinding, 4: sealer.ErrMalformed, 5: sealer.ErrInvalidBinding, 6: sealer.ErrUnknownKEK} {
				require.ErrorIs(t, results[i].Err, want)
				results[i].Err = nil
			}
			for _, result := range results {
				require.NoError(t, result.Err)
			}
			require.Equal(t, bad[7].Envelope, results[7].Envelope.Bytes)

			key.before = func(context.Context, string) error { return errAway }
			_, err = s.RewrapAll(t.Context(), items)
			require.ErrorIs(t, err, sealer.ErrUnavailable)
		})
	}
}

func TestAWrongAnswerToABatchSealsNothing(t *testing.T) {
	key := newService()
	backend := wrongBatches{inBatches{key}}
	s := kms.New(backend, kms.Options{})
	items := make([]sealer.Item, 3)
	for i := range items {
		items[i] = sealer.Item{Binding: binding(i), Envelope: mustSeal(t, s, i).Bytes}
	}
	key.primary.Store(2)
	_, err := kms.New(backend, kms.Options{}).RewrapAll(t.Context(), items)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorContains(t, err, "nothing was sealed")
}

// If a wrong data key were wrapped again, it would replace the right one, and the secret would be lost.
func TestAWrongDataKeyIsNotWrappedOnceMore(t *testing.T) {
	for name, backend := range map[string]func(*service) kms.Key{
		"in a batch": func(s *service) kms.Key { return inBatches{s} },
		"alone":      func(s *service) kms.Key { return s },
	} {
		t.Run(name, func(t *testing.T) {
			key := newService()
			items := make([]sealer.Item, 3)
			for i := range items {
				items[i] = sealer.Item{Binding: binding(i), Envelope: mustSeal(t, kms.New(key, kms.Options{}), i).Bytes}
			}
			key.primary.Store(2)
			key.isWrong.Store(true)
			s := kms.New(backend(key), kms.Options{CacheTTL: time.Minute})
			results, err := s.RewrapAll(t.Context(), items)
			require.NoError(t, err)
			for i, result := range results {
				require.ErrorIs(t, result.Err, sealer.ErrBinding)
				_, err = s.Rewrap(t.Context(), items[i].Binding, items[i].Envelope)
				require.ErrorIs(t, err, sealer.ErrBinding)
			}
		})
	}
}

// wrongBatches mixes up the results of a batch.
type wrongBatches struct{ inBatches }

func (w wrongBatches) WrapAll(ctx context.Context, items []sealer.KeyItem) ([][]byte, error) {
	keys, err := w.inBatches.WrapAll(ctx, items)
	slices.Reverse(keys)
	return keys, err
}

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

// If the proof came from the cache, a service that wraps wrongly would not be noticed.
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
