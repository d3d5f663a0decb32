package sealer_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/agentrouter/aikeys/sealer"
)

func exampleBinding() sealer.Binding {
	return sealer.Binding{CustomerID: "acme", ProjectID: "p1", KeyID: "byok_1", Provider: "openai", Version: 258}
}

// A change of this encoding makes every stored envelope unreadable.
func TestBindingEncoding(t *testing.T) {
	encoding, err := exampleBinding().AssociatedData()
	require.NoError(t, err)
	want := "01" + "04" + hex.EncodeToString([]byte("acme")) + "02" + hex.EncodeToString([]byte("p1")) +
		"06" + hex.EncodeToString([]byte("byok_1")) + "06" + hex.EncodeToString([]byte("openai")) + "00000102"
	require.Equal(t, want, hex.EncodeToString(encoding))
}

func TestBindingLimits(t *testing.T) {
	parts := map[string]func(b *sealer.Binding, value string){
		"customer id": func(b *sealer.Binding, value string) { b.CustomerID = value },
		"project id":  func(b *sealer.Binding, value string) { b.ProjectID = value },
		"key id":      func(b *sealer.Binding, value string) { b.KeyID = value },
		"provider":    func(b *sealer.Binding, value string) { b.Provider = value },
	}
	for name, set := range parts {
		t.Run(name, func(t *testing.T) {
			for length, valid := range map[int]bool{0: false, 1: true, 255: true, 256: false, 65536 + 1: false} {
				b := exampleBinding()
				set(&b, strings.Repeat("x", length))
				encoding, err := b.AssociatedData()
				if valid {
					require.NoError(t, err)
					continue
				}
				require.ErrorIs(t, err, sealer.ErrInvalidBinding)
				require.ErrorContains(t, err, name)
				require.Nil(t, encoding)
			}
		})
	}
	t.Run("version", func(t *testing.T) {
		b := exampleBinding()
		b.Version = 0
		_, err := b.AssociatedData()
		require.ErrorIs(t, err, sealer.ErrInvalidBinding)
	})
}

// requireInjective requires that two valid bindings have equal encodings if and only if they are equal.
func requireInjective(t require.TestingT, a, b sealer.Binding) {
	first, errA := a.AssociatedData()
	second, errB := b.AssociatedData()
	if errA != nil || errB != nil {
		return
	}
	require.Equal(t, a == b, string(first) == string(second), "%+v and %+v", a, b)
}

func FuzzBindingEncodingIsInjective(f *testing.F) {
	f.Add("ab", "c", "d", "e", uint32(1), "a", "bc", "d", "e", uint32(1))
	f.Add("a", "b", "c", "d", uint32(1), "a", "b", "c", "d", uint32(1))
	f.Add("a", "b", "c", "d", uint32(1), "a", "b", "c", "d", uint32(1<<24))
	f.Add("a\x01b", "c", "d", "e", uint32(1), "a", "b\x01c", "d", "e", uint32(1))
	f.Add("a", "b", "c", "d\x00\x00\x00\x01", uint32(1), "a", "b", "c", "d", uint32(1))
	f.Fuzz(func(t *testing.T, c1, p1, k1, v1 string, n1 uint32, c2, p2, k2, v2 string, n2 uint32) {
		requireInjective(t,
			sealer.Binding{CustomerID: c1, ProjectID: p1, KeyID: k1, Provider: v1, Version: n1},
			sealer.Binding{CustomerID: c2, ProjectID: p2, KeyID: k2, Provider: v2, Version: n2})
	})
}

// The alphabet is small, and has the bytes of lengths and versions, so that pairs which almost collide are common.
func TestBindingEncodingIsInjective(t *testing.T) {
	part := rapid.StringMatching(`[a\x00\x01\x02]{1,3}`)
	bindings := rapid.Custom(func(t *rapid.T) sealer.Binding {
		return sealer.Binding{
			CustomerID: part.Draw(t, "customer"), ProjectID: part.Draw(t, "project"), KeyID: part.Draw(t, "key"),
			Provider: part.Draw(t, "provider"), Version: rapid.Uint32Range(1, 1<<17).Draw(t, "version"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		requireInjective(t, bindings.Draw(t, "a"), bindings.Draw(t, "b"))
	})
}

// plainKEKs encrypt nothing: a wrapped key is the associated data followed by the data key. They show what an envelope
// sealer passes to a backend, and fail on demand.
type plainKEKs struct {
	primary string
	asked   func() // called by List if set
	fault   error  // returned by Wrap and Unwrap if set
	wrapped []byte
	dataKey []byte // returned by Unwrap if set
}

func (k *plainKEKs) List(context.Context) ([]sealer.KEK, error) {
	if k.asked != nil {
		k.asked()
	}
	if k.primary == "" {
		return nil, fmt.Errorf("plain: %w", sealer.ErrUnavailable)
	}
	return []sealer.KEK{{ID: k.primary, State: sealer.KEKPrimary}}, nil
}

func (k *plainKEKs) Wrap(_ context.Context, _ string, dataKey, associatedData []byte) ([]byte, error) {
	if k.fault != nil || k.wrapped != nil {
		return k.wrapped, k.fault
	}
	return append(append([]byte{}, associatedData...), dataKey...), nil
}

func (k *plainKEKs) Unwrap(_ context.Context, _ string, wrapped, associatedData []byte) ([]byte, error) {
	if k.fault != nil || k.dataKey != nil {
		return k.dataKey, k.fault
	}
	dataKey, ok := strings.CutPrefix(string(wrapped), string(associatedData))
	if !ok {
		return nil, sealer.ErrBinding
	}
	return []byte(dataKey), nil
}

func sealUnder(t *testing.T, keks sealer.KEKs) sealer.Envelope {
	t.Helper()
	envelope, err := sealer.NewEnvelopeSealer(keks).
		Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
	require.NoError(t, err)
	return envelope
}

func TestEnvelopeSealerBindsTheDataKey(t *testing.T) {
	envelope := sealUnder(t, &plainKEKs{primary: "plain:1"})
	bound, err := exampleBinding().AssociatedData()
	require.NoError(t, err)
	require.Contains(t, string(envelope.Bytes), "aikeys/v1/data-key:\x07plain:1"+string(bound))
}

func TestEnvelopeSealerDataKeysAreFresh(t *testing.T) {
	keks := &plainKEKs{primary: "plain:1"}
	const payload = 12 + len(canary) + 16 // bytes after the data key, which is the last 32 bytes of the wrapped key
	seen := map[string]bool{}
	for range 100 {
		b := sealUnder(t, keks).Bytes
		seen[string(b[len(b)-payload-32:len(b)-payload])] = true
	}
	require.Len(t, seen, 100)
}

func TestEnvelopeSealerBackendErrors(t *testing.T) {
	envelope := sealUnder(t, &plainKEKs{primary: "plain:1"})
	for _, fault := range []error{sealer.ErrUnavailable, sealer.ErrUnknownKEK} {
		t.Run(fault.Error(), func(t *testing.T) {
			s := sealer.NewEnvelopeSealer(&plainKEKs{primary: "plain:2", fault: fault})
			_, err := s.Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
			require.ErrorIs(t, err, fault)
			_, err = s.Open(t.Context(), exampleBinding(), envelope.Bytes)
			require.ErrorIs(t, err, fault)
			_, err = s.Rewrap(t.Context(), exampleBinding(), envelope.Bytes)
			require.ErrorIs(t, err, fault)
		})
	}
	t.Run("no primary KEK", func(t *testing.T) {
		s := sealer.NewEnvelopeSealer(&plainKEKs{})
		_, err := s.Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
		require.ErrorIs(t, err, sealer.ErrUnavailable)
		_, err = s.Rewrap(t.Context(), exampleBinding(), envelope.Bytes)
		require.ErrorIs(t, err, sealer.ErrUnavailable)
		_, err = s.PrimaryKEK(t.Context())
		require.ErrorIs(t, err, sealer.ErrUnavailable)
	})
}

// The primary KEK is retired between the calls of List and Wrap. Seal then tries once more, under the new primary KEK.
// TestEnvelopeSealerBackendErrors shows that Seal does not retry forever if the backend never knows its primary KEK.
func TestSealWhileThePrimaryKEKIsRetired(t *testing.T) {
	keks := &plainKEKs{primary: "plain:", fault: sealer.ErrUnknownKEK}
	keks.asked = func() {
		if keks.primary += "+"; keks.primary == "plain:++" {
			keks.fault = nil
		}
	}
	require.Equal(t, "plain:++", sealUnder(t, keks).KEKID)
}

func TestEnvelopeSealerInvalidBackend(t *testing.T) {
	envelope := sealUnder(t, &plainKEKs{primary: "plain:1"})
	for name, length := range map[string]int{"none": 0, "AES-128": 16, "too short": 31, "too long": 33} {
		t.Run("data key: "+name, func(t *testing.T) {
			s := sealer.NewEnvelopeSealer(&plainKEKs{primary: "plain:1", dataKey: make([]byte, length)})
			secret, err := s.Open(t.Context(), exampleBinding(), envelope.Bytes)
			require.ErrorIs(t, err, sealer.ErrMalformed)
			require.Zero(t, secret.Len())
			_, err = s.Rewrap(t.Context(), exampleBinding(), envelope.Bytes)
			require.ErrorIs(t, err, sealer.ErrMalformed)
		})
	}
	t.Run("another data key", func(t *testing.T) {
		s := sealer.NewEnvelopeSealer(&plainKEKs{primary: "plain:1", dataKey: make([]byte, 32)})
		_, err := s.Open(t.Context(), exampleBinding(), envelope.Bytes)
		require.ErrorIs(t, err, sealer.ErrBinding)
	})
	for name, keks := range map[string]*plainKEKs{
		"KEK id with a newline":  {primary: "plain:1\n"},
		"KEK id of 256 bytes":    {primary: strings.Repeat("k", 256)},
		"wrapped key of nothing": {primary: "plain:1", wrapped: []byte{}},
		"wrapped key of 64 KiB":  {primary: "plain:1", wrapped: make([]byte, 65536)},
	} {
		t.Run(name, func(t *testing.T) {
			envelope, err := sealer.NewEnvelopeSealer(keks).
				Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
			require.Error(t, err)
			require.Zero(t, envelope)
		})
	}
}
