package sealer_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
)

// plainKEKs wrap nothing: a wrapped key is the associated data and the data key, as they are. They show what an
// envelope sealer hands to a backend, and fail on demand.
type plainKEKs struct {
	primary string
	fault   error // returned by Wrap and Unwrap if set
	wrapped []byte
	dataKey []byte // returned by Unwrap if set
}

func (k *plainKEKs) Primary(context.Context) (string, error) {
	if k.primary == "" {
		return "", fmt.Errorf("plain: %w", sealer.ErrUnavailable)
	}
	return k.primary, nil
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
