package sealertest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"

	"github.com/agentrouter/aikeys/sealer"
)

// RunRotation tests the replacement of the primary KEK. newSealers returns two Sealers: one as before the replacement,
// and one as after it. The second Sealer has the KEKs of the first and one more, which is its primary KEK.
func RunRotation(t *testing.T, newSealers func(t *testing.T) (before, after sealer.Sealer)) {
	t.Run("an old envelope opens, and its re-wrapped form under the new KEK alone", func(t *testing.T) {
		before, after := newSealers(t)
		old := MustSeal(t, before)
		RequireOpens(t, after, old.Bytes)

		rewrapped, err := after.Rewrap(t.Context(), Binding(), old.Bytes)
		require.NoError(t, err)
		primary, err := after.PrimaryKEK(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, old.KEKID, primary)
		require.Equal(t, primary, rewrapped.KEKID)
		named, err := sealer.KEKIDOf(rewrapped.Bytes)
		require.NoError(t, err)
		require.Equal(t, primary, named)

		RequireOpens(t, after, rewrapped.Bytes)
		requireDoesNotOpen(t, before, Binding(), rewrapped.Bytes, sealer.ErrUnknownKEK)
		_, err = before.Rewrap(t.Context(), Binding(), rewrapped.Bytes)
		requireRefusal(t, err, sealer.ErrUnknownKEK)
	})
	t.Run("re-wrapping touches the data key alone", func(t *testing.T) {
		before, after := newSealers(t)
		old := MustSeal(t, before)
		rewrapped, err := after.Rewrap(t.Context(), Binding(), old.Bytes)
		require.NoError(t, err)

		const payload = 12 + len(Secret) + 16 // nonce, ciphertext and tag, in bytes
		require.Equal(t, old.Bytes[len(old.Bytes)-payload:], rewrapped.Bytes[len(rewrapped.Bytes)-payload:])
	})
	t.Run("re-wrapping keeps the binding", func(t *testing.T) {
		before, after := newSealers(t)
		old := MustSeal(t, before)
		rewrapped, err := after.Rewrap(t.Context(), Binding(), old.Bytes)
		require.NoError(t, err)
		for name, other := range otherBindings() {
			t.Run(name, func(t *testing.T) {
				_, err := after.Rewrap(t.Context(), other, old.Bytes)
				requireRefusal(t, err, sealer.ErrBinding)
				requireDoesNotOpen(t, after, other, rewrapped.Bytes, sealer.ErrBinding)
			})
		}
	})
	t.Run("an old envelope cannot be relabelled with the new KEK", func(t *testing.T) {
		before, after := newSealers(t)
		old := MustSeal(t, before)
		primary, err := after.PrimaryKEK(t.Context())
		require.NoError(t, err)
		requireDoesNotOpen(t, after, Binding(), relabel(t, old, primary), sealer.ErrBinding)
	})
}

func testOtherBinding(t *testing.T, s sealer.Sealer) {
	envelope := MustSeal(t, s)
	for name, other := range otherBindings() {
		t.Run(name, func(t *testing.T) {
			requireDoesNotOpen(t, s, other, envelope.Bytes, sealer.ErrBinding)
			_, err := s.Rewrap(t.Context(), other, envelope.Bytes)
			requireRefusal(t, err, sealer.ErrBinding)
		})
	}
}

func testBitFlips(t *testing.T, s sealer.Sealer) {
	envelope := MustSeal(t, s)
	for i := range envelope.Bytes {
		flipped := bytes.Clone(envelope.Bytes)
		flipped[i] ^= 1 << (i % 8)
		requireTampered(t, s, flipped, fmt.Sprintf("byte %d", i))
	}
}

func testLengths(t *testing.T, s sealer.Sealer) {
	envelope := MustSeal(t, s)
	for n := range envelope.Bytes {
		requireTampered(t, s, envelope.Bytes[:n], fmt.Sprintf("cut to %d bytes", n))
	}
	requireTampered(t, s, nil, "nil")
	requireTampered(t, s, append(bytes.Clone(envelope.Bytes), 0), "a byte more")
	requireTampered(t, s, append([]byte{envelope.Bytes[0]}, envelope.Bytes...), "a byte more in front")
	requireTampered(t, s, []byte(Secret), "a plaintext")
}

// testSplicing joins the head of one envelope to the tail of another of the same size, at each place.
func testSplicing(t *testing.T, s sealer.Sealer) {
	first := MustSeal(t, s).Bytes
	second := MustSeal(t, s).Bytes
	common := 0
	for common < len(first) && first[common] == second[common] {
		common++
	}
	for i := common + 1; i < min(len(first), len(second)); i++ {
		spliced := append(bytes.Clone(first[:i]), second[i:]...)
		if bytes.Equal(spliced, first) || bytes.Equal(spliced, second) {
			continue // the rest happens to be the same
		}
		requireTampered(t, s, spliced, fmt.Sprintf("spliced at byte %d", i))
	}
}

func testUnknownKEK(t *testing.T, s sealer.Sealer) {
	envelope := MustSeal(t, s)
	// It has the length of the KEK id, so a backend that checks the form of its ids accepts the length.
	unknown := envelope.KEKID[:len(envelope.KEKID)-1] + "0"
	if unknown == envelope.KEKID {
		unknown = envelope.KEKID[:len(envelope.KEKID)-1] + "1"
	}
	requireDoesNotOpen(t, s, Binding(), relabel(t, envelope, unknown), sealer.ErrUnknownKEK)
	_, err := s.Rewrap(t.Context(), Binding(), relabel(t, envelope, unknown))
	requireRefusal(t, err, sealer.ErrUnknownKEK)
}

// relabel replaces the KEK id in an envelope. The id follows the format byte and the id's length.
func relabel(t *testing.T, envelope sealer.Envelope, kekID string) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddUint8(envelope.Bytes[0])
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(kekID)) })
	b.AddBytes(envelope.Bytes[2+len(envelope.KEKID):])
	relabelled, err := b.Bytes()
	require.NoError(t, err)
	return relabelled
}

func changed(change func(b *sealer.Binding)) sealer.Binding {
	b := Binding()
	change(&b)
	return b
}

// otherBindings returns bindings that differ from Binding() in one field, or have the same characters divided
// differently among the fields.
func otherBindings() map[string]sealer.Binding {
	return map[string]sealer.Binding{
		"customer":       changed(func(b *sealer.Binding) { b.CustomerID = "cust_2" }),
		"project":        changed(func(b *sealer.Binding) { b.ProjectID = "proj_2" }),
		"key":            changed(func(b *sealer.Binding) { b.KeyID = "byok_2" }),
		"provider":       changed(func(b *sealer.Binding) { b.Provider = "anthropic" }),
		"version":        changed(func(b *sealer.Binding) { b.Version = 2 }),
		"version + 2^24": changed(func(b *sealer.Binding) { b.Version += 1 << 24 }),
		"letter case":    changed(func(b *sealer.Binding) { b.CustomerID = "Cust_1" }),
		"fields moved":   changed(func(b *sealer.Binding) { b.CustomerID, b.ProjectID = b.ProjectID, b.CustomerID }),
		"border moved":   changed(func(b *sealer.Binding) { b.CustomerID, b.ProjectID = "cust_1p", "roj_1" }),
		"trailing zero":  changed(func(b *sealer.Binding) { b.Provider += "\x00" }),
	}
}

func requireDoesNotOpen(t *testing.T, s sealer.Sealer, b sealer.Binding, envelope []byte, want error) {
	t.Helper()
	secret, err := s.Open(t.Context(), b, envelope)
	requireRefusal(t, err, want)
	require.Zero(t, secret.Len(), "a refusal came with plaintext")
}

// requireTampered requires that changed bytes are refused, for any reason.
func requireTampered(t *testing.T, s sealer.Sealer, envelope []byte, what string) {
	t.Helper()
	secret, err := s.Open(t.Context(), Binding(), envelope)
	require.Error(t, err, what)
	known := errors.Is(err, sealer.ErrBinding) || errors.Is(err, sealer.ErrMalformed) ||
		errors.Is(err, sealer.ErrUnknownKEK)
	require.True(t, known, "%s: %v", what, err)
	require.Zero(t, secret.Len(), "%s: a refusal came with plaintext", what)
	requireSilent(t, err)
}

func requireRefusal(t *testing.T, err, want error) {
	t.Helper()
	require.ErrorIs(t, err, want)
	requireSilent(t, err)
}

// requireSilent requires that an error text does not hold the Secret, neither unchanged nor as %x, %d or JSON write it.
func requireSilent(t *testing.T, err error) {
	t.Helper()
	decimal := strings.Trim(fmt.Sprint([]byte(Secret)), "[]")
	for _, form := range []string{
		Secret, hex.EncodeToString([]byte(Secret)), base64.StdEncoding.EncodeToString([]byte(Secret)), decimal,
	} {
		require.NotContains(t, fmt.Sprintf("%+v", err), form)
	}
}
