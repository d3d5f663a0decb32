package sealer_test

import (
	"encoding/hex"
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

// requireInjective requires that two valid bindings have one encoding exactly if they are one binding.
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
