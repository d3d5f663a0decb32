package sealertest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestUnavailableContract(t *testing.T) {
	sealertest.Run(t, func(t *testing.T) sealer.Sealer {
		s := sealertest.NewUnavailable(sealertest.New(t))
		s.SetAvailable(true)
		return s
	})
}

func TestUnavailableFailsAndRecovers(t *testing.T) {
	binding := sealer.Binding{CustomerID: "c", ProjectID: "p", KeyID: "k", Provider: "openai", Version: 1}
	s := sealertest.NewUnavailable(sealertest.New(t))
	var envelope sealer.Envelope
	calls := map[string]func() error{
		"Seal": func() (err error) {
			envelope, err = s.Seal(t.Context(), binding, sealer.NewSecret([]byte("x")))
			return err
		},
		"Open":       func() error { _, err := s.Open(t.Context(), binding, envelope.Bytes); return err },
		"Rewrap":     func() error { _, err := s.Rewrap(t.Context(), binding, envelope.Bytes); return err },
		"PrimaryKEK": func() error { _, err := s.PrimaryKEK(t.Context()); return err },
		"KEKs":       func() error { _, err := s.KEKs(t.Context()); return err },
	}
	for _, available := range []bool{false, true, false, true} {
		s.SetAvailable(available)
		for _, name := range []string{"Seal", "Open", "Rewrap", "PrimaryKEK", "KEKs"} {
			err := calls[name]()
			if available {
				require.NoError(t, err, name)
				continue
			}
			require.ErrorIs(t, err, sealer.ErrUnavailable, name)
		}
	}
}
