package sealer_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
)

const canary = "sk-canary-0123456789"

// holder has a Secret where fmt can call its methods, and one where it cannot.
type holder struct {
	Exported sealer.Secret
	hidden   sealer.Secret
	pointer  *sealer.Secret
	list     []sealer.Secret
}

func newHolder() holder {
	secret := sealer.NewSecret([]byte(canary))
	return holder{Exported: secret, hidden: secret, pointer: &secret, list: []sealer.Secret{secret}}
}

// requireHidden requires that text does not hold the canary in any form in which fmt or an encoder writes bytes.
func requireHidden(t *testing.T, text string) {
	t.Helper()
	decimal := fmt.Sprintf("%d", []byte(canary))
	for _, form := range []string{
		"canary", fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprintf("% x", canary),
		decimal[1 : len(decimal)-1], "c2stY2FuYXJ5", "0x73, 0x6b", "115, 107",
	} {
		require.NotContains(t, text, form)
	}
}

func TestSecretFormatsAsRedacted(t *testing.T) {
	secret := sealer.NewSecret([]byte(canary))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%c", "%U", "%40s"} {
		t.Run(verb, func(t *testing.T) {
			require.Equal(t, "[redacted]", fmt.Sprintf(verb, secret))
			require.Equal(t, "[redacted]", fmt.Sprintf(verb, &secret))
			require.Equal(t, "[redacted]", fmt.Sprintf(verb, sealer.Secret{}))
			require.EqualError(t, fmt.Errorf("seal "+verb, secret), "seal [redacted]")
			require.Equal(t, "[[redacted]]", fmt.Sprintf("%v", []sealer.Secret{secret}))
			require.Equal(t, "map[k:[redacted]]", fmt.Sprintf("%v", map[string]sealer.Secret{"k": secret}))

			for _, container := range []any{
				newHolder(), &holder{Exported: secret}, []any{secret, &secret}, []holder{newHolder()},
				map[string]any{"k": secret, "h": newHolder()}, [1]sealer.Secret{secret}, &[]sealer.Secret{secret},
			} {
				requireHidden(t, fmt.Sprintf(verb, container))
			}
		})
	}
	require.Equal(t, "[redacted]", fmt.Sprint(secret))
	require.Equal(t, "[redacted]", secret.String())
	require.Equal(t, "[redacted]", secret.GoString())
}

func TestSecretIsHiddenInUnexportedFields(t *testing.T) {
	secret := sealer.NewSecret([]byte(canary))
	for _, verb := range []string{"%p", "%w", "%T"} {
		requireHidden(t, fmt.Sprintf(verb, secret))
		requireHidden(t, fmt.Errorf("seal "+verb, &secret).Error())
	}
}

// recorder keeps the messages of failed assertions.
type recorder struct{ bytes.Buffer }

func (r *recorder) Errorf(format string, args ...any) {
	_, _ = fmt.Fprintf(r, format, args...) // a Buffer does not fail
}

// A failed assertion dumps the values that differ into logs of CI. It reads them by reflection, and calls no methods.
func TestSecretInAFailedAssertion(t *testing.T) {
	var out recorder
	require.False(t, assert.Equal(&out, holder{}, newHolder()))
	require.False(t, assert.Empty(&out, []holder{newHolder()}))
	require.False(t, assert.Empty(&out, newHolder()))
	require.Contains(t, out.String(), "Exported")
	requireHidden(t, out.String())
}

func TestSecretEncodesAsRedacted(t *testing.T) {
	secret := sealer.NewSecret([]byte(canary))

	text, err := secret.MarshalText()
	require.NoError(t, err)
	require.Equal(t, "[redacted]", string(text))

	encoded, err := json.Marshal(map[string]any{"value": secret, "pointer": &secret, "holder": newHolder()})
	require.NoError(t, err)
	require.JSONEq(t,
		`{"value":"[redacted]","pointer":"[redacted]","holder":{"Exported":"[redacted]"}}`, string(encoded))

	encoded, err = xml.Marshal(secret)
	require.NoError(t, err)
	require.Equal(t, "<Secret>[redacted]</Secret>", string(encoded))
}

func TestSecretGob(t *testing.T) {
	secret := sealer.NewSecret([]byte(canary))
	for _, value := range []any{secret, &secret, newHolder()} {
		var out bytes.Buffer
		err := gob.NewEncoder(&out).Encode(value)
		require.ErrorContains(t, err, "no binary encoding")
		requireHidden(t, out.String())
	}
}

func TestSecretDoesNotUnmarshal(t *testing.T) {
	var target map[string]sealer.Secret
	require.Error(t, json.Unmarshal([]byte(`{"secret":"[redacted]"}`), &target))
	require.Zero(t, target["secret"].Len())
}

func TestSecretLogsAsRedacted(t *testing.T) {
	secret := sealer.NewSecret([]byte(canary))
	// A slog handler may call no method but LogValue.
	require.Equal(t, slog.StringValue("[redacted]"), slog.AnyValue(secret).Resolve())

	var out bytes.Buffer
	for name, handler := range map[string]slog.Handler{
		"text": slog.NewTextHandler(&out, nil),
		"json": slog.NewJSONHandler(&out, nil),
	} {
		t.Run(name, func(t *testing.T) {
			out.Reset()
			slog.New(handler).Info("register", "secret", secret)
			require.Contains(t, out.String(), "[redacted]")
			slog.New(handler).With("pointer", &secret).WithGroup("g").
				Info("register", "holder", newHolder(), "any", []any{secret}, "error", fmt.Errorf("bad %x", secret))
			requireHidden(t, out.String())
		})
	}
}

func TestSecretReveal(t *testing.T) {
	secret := sealer.NewSecret([]byte(canary))
	require.Equal(t, canary, string(secret.Reveal()))
	require.Equal(t, len(canary), secret.Len())
	require.Nil(t, sealer.Secret{}.Reveal())
	require.Zero(t, sealer.Secret{}.Len())
}

func TestSecretWipe(t *testing.T) {
	t.Run("zeroes the memory and empties every copy", func(t *testing.T) {
		plaintext := []byte(canary)
		secret := sealer.NewSecret(plaintext)
		other := secret
		secret.Wipe()
		require.Equal(t, make([]byte, len(canary)), plaintext)
		require.Nil(t, other.Reveal())
		require.Zero(t, other.Len())
	})
	t.Run("may be repeated", func(t *testing.T) {
		secret := sealer.NewSecret([]byte(canary))
		secret.Wipe()
		require.NotPanics(t, secret.Wipe)
		require.NotPanics(t, sealer.Secret{}.Wipe)
	})
}

func TestSentinelsAreDistinct(t *testing.T) {
	sentinels := []error{
		sealer.ErrBinding, sealer.ErrUnknownKEK, sealer.ErrMalformed, sealer.ErrUnavailable, sealer.ErrInvalidBinding,
		sealer.ErrInvalidSecret,
	}
	for i, a := range sentinels {
		for j, b := range sentinels {
			require.Equal(t, i == j, errors.Is(a, b))
		}
	}
}
