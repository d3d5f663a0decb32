package sealertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
)

// maxAPISecretLen is the length in bytes of the longest secret that the API accepts.
const maxAPISecretLen = 16 << 10

// Run tests that a backend keeps the contract of sealer.Sealer. Run calls newSealer once for each subtest. The Sealer
// that newSealer returns must be able to reach its backend, and newSealer registers clean-up with t.
func Run(t *testing.T, newSealer func(t *testing.T) sealer.Sealer) {
	tests := []struct {
		name string
		test func(t *testing.T, s sealer.Sealer)
	}{
		{"every secret comes back as it was sealed", testRoundTrip},
		{"a secret that is empty or too long is refused", testInvalidSecret},
		{"an incomplete binding is refused", testInvalidBinding},
		{"an envelope names the primary KEK and shows nothing of its secret", testEnvelope},
		{"two envelopes of one secret differ", testFreshEnvelopes},
		{"arguments are neither changed nor kept", testArguments},
		{"an envelope does not open under another binding", testOtherBinding},
		{"an envelope with a changed bit does not open", testBitFlips},
		{"an envelope of another length does not open", testLengths},
		{"fields of two envelopes do not mix", testSplicing},
		{"an envelope of an unknown KEK is told apart", testUnknownKEK},
		{"re-wrapping a current envelope changes nothing", testRewrapCurrent},
		{"a context that is done ends every call", testContextDone},
		{"many goroutines share one sealer", testConcurrency},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.test(t, newSealer(t)) })
	}
}

func testRoundTrip(t *testing.T, s sealer.Sealer) {
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	secrets := map[string][]byte{
		"one byte":                []byte("x"),
		"a zero byte":             {0},
		"text":                    []byte(Secret),
		"every byte value":        everyByte,
		"the longest the API has": randomBytes(maxAPISecretLen),
		"the longest of all":      randomBytes(sealer.MaxSecretLen),
	}
	for name, plaintext := range secrets {
		t.Run(name, func(t *testing.T) {
			envelope, err := s.Seal(t.Context(), Binding(), sealer.NewSecret(bytes.Clone(plaintext)))
			require.NoError(t, err)
			secret, err := s.Open(t.Context(), Binding(), envelope.Bytes)
			require.NoError(t, err)
			require.True(t, bytes.Equal(plaintext, secret.Reveal()), "another secret came out than went in")
		})
	}
}

func testInvalidSecret(t *testing.T, s sealer.Sealer) {
	wiped := sealer.NewSecret([]byte(Secret))
	wiped.Wipe()
	secrets := map[string]sealer.Secret{
		"zero":       {},
		"empty":      sealer.NewSecret([]byte{}),
		"wiped":      wiped,
		"a byte too": sealer.NewSecret(make([]byte, sealer.MaxSecretLen+1)),
	}
	for name, secret := range secrets {
		t.Run(name, func(t *testing.T) {
			envelope, err := s.Seal(t.Context(), Binding(), secret)
			require.ErrorIs(t, err, sealer.ErrInvalidSecret)
			require.Zero(t, envelope)
		})
	}
}

func testInvalidBinding(t *testing.T, s sealer.Sealer) {
	envelope := MustSeal(t, s)
	for _, broken := range []sealer.Binding{
		{},
		changed(func(b *sealer.Binding) { b.CustomerID = "" }),
		changed(func(b *sealer.Binding) { b.ProjectID = strings.Repeat("p", 256) }),
		changed(func(b *sealer.Binding) { b.Version = 0 }),
	} {
		_, err := s.Seal(t.Context(), broken, sealer.NewSecret([]byte(Secret)))
		requireRefusal(t, err, sealer.ErrInvalidBinding)
		requireDoesNotOpen(t, s, broken, envelope.Bytes, sealer.ErrInvalidBinding)
		_, err = s.Rewrap(t.Context(), broken, envelope.Bytes)
		requireRefusal(t, err, sealer.ErrInvalidBinding)
	}
}

func testEnvelope(t *testing.T, s sealer.Sealer) {
	primary, err := s.PrimaryKEK(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, primary)

	envelope := MustSeal(t, s)
	require.Equal(t, primary, envelope.KEKID)
	keks, err := s.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, sealer.KEK{ID: primary, State: sealer.KEKPrimary}, keks[0])
	named, err := sealer.KEKIDOf(envelope.Bytes)
	require.NoError(t, err)
	require.Equal(t, primary, named)
	require.False(t, bytes.Contains(envelope.Bytes, []byte(Secret)), "the envelope holds the plaintext")
}

func testFreshEnvelopes(t *testing.T, s sealer.Sealer) {
	first := MustSeal(t, s)
	second := MustSeal(t, s)
	require.NotEqual(t, first.Bytes, second.Bytes)

	// Different nonces are not enough: each envelope has its own data key, so the ciphertexts differ, too.
	const tail = len(Secret) + 16 // ciphertext and tag
	require.NotEqual(t, first.Bytes[len(first.Bytes)-tail:], second.Bytes[len(second.Bytes)-tail:])
}

func testArguments(t *testing.T, s sealer.Sealer) {
	secret := sealer.NewSecret([]byte(Secret))
	envelope, err := s.Seal(t.Context(), Binding(), secret)
	require.NoError(t, err)
	require.Equal(t, Secret, string(secret.Reveal()), "Seal changed its argument")
	secret.Wipe()
	RequireOpens(t, s, envelope.Bytes)

	stored := bytes.Clone(envelope.Bytes)
	opened, err := s.Open(t.Context(), Binding(), envelope.Bytes)
	require.NoError(t, err)
	rewrapped, err := s.Rewrap(t.Context(), Binding(), envelope.Bytes)
	require.NoError(t, err)
	require.Equal(t, stored, envelope.Bytes, "Open or Rewrap changed its argument")

	opened.Wipe()
	RequireOpens(t, s, envelope.Bytes)
	clear(envelope.Bytes)
	RequireOpens(t, s, rewrapped.Bytes)
}

func testRewrapCurrent(t *testing.T, s sealer.Sealer) {
	envelope := MustSeal(t, s)
	rewrapped, err := s.Rewrap(t.Context(), Binding(), envelope.Bytes)
	require.NoError(t, err)
	require.Equal(t, envelope, rewrapped)
}

func testContextDone(t *testing.T, s sealer.Sealer) {
	envelope := MustSeal(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()

	_, err := s.Seal(ctx, Binding(), sealer.NewSecret([]byte(Secret)))
	requireRefusal(t, err, context.Canceled)
	secret, err := s.Open(ctx, Binding(), envelope.Bytes)
	requireRefusal(t, err, context.Canceled)
	require.Zero(t, secret.Len())
	_, err = s.Rewrap(ctx, Binding(), envelope.Bytes)
	requireRefusal(t, err, context.Canceled)
	_, err = s.PrimaryKEK(ctx)
	requireRefusal(t, err, context.Canceled)
	_, err = s.KEKs(ctx)
	requireRefusal(t, err, context.Canceled)
}

func testConcurrency(t *testing.T, s sealer.Sealer) {
	const goroutines, rounds = 16, 8
	shared := MustSeal(t, s)
	errs := make(chan error, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for round := range rounds {
				if err := useOnce(t.Context(), s, shared.Bytes, g, round); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
}

// useOnce seals, re-wraps and opens a secret of its own, and opens the shared one.
func useOnce(ctx context.Context, s sealer.Sealer, shared []byte, goroutine, round int) error {
	own := changed(func(b *sealer.Binding) { b.KeyID = fmt.Sprintf("byok_%d_%d", goroutine, round) })
	plaintext := fmt.Sprintf("%s-%d-%d", Secret, goroutine, round)
	envelope, err := s.Seal(ctx, own, sealer.NewSecret([]byte(plaintext)))
	if err != nil {
		return err
	}
	if envelope, err = s.Rewrap(ctx, own, envelope.Bytes); err != nil {
		return err
	}
	for _, want := range []struct {
		binding   sealer.Binding
		envelope  []byte
		plaintext string
	}{{own, envelope.Bytes, plaintext}, {Binding(), shared, Secret}} {
		secret, err := s.Open(ctx, want.binding, want.envelope)
		if err != nil {
			return err
		}
		if string(secret.Reveal()) != want.plaintext {
			return fmt.Errorf("key %s opened as another secret", want.binding.KeyID)
		}
	}
	return nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
