package rewrap

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestUnsoundEnvelopeIsNeverWritten(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 5)
	env.rotate()
	other := sealertest.New(t)
	seal := func(s sealer.Sealer, b sealer.Binding, secret string) sealer.Envelope {
		envelope, err := s.Seal(t.Context(), b, sealer.NewSecret([]byte(secret)))
		require.NoError(t, err)
		return envelope
	}
	flip := func(envelope sealer.Envelope, at int) sealer.Envelope {
		envelope.Bytes[at] ^= 1
		return envelope
	}
	for name, falsify := range map[string]func(b sealer.Binding, old []byte, sound sealer.Envelope) sealer.Envelope{
		"no envelope": func(sealer.Binding, []byte, sealer.Envelope) sealer.Envelope {
			return sealer.Envelope{KEKID: "local:00000000", Bytes: []byte("rubbish")}
		},
		"nothing": func(sealer.Binding, []byte, sealer.Envelope) sealer.Envelope { return sealer.Envelope{} },
		"the name of another KEK": func(_ sealer.Binding, _ []byte, sound sealer.Envelope) sealer.Envelope {
			return sealer.Envelope{KEKID: "local:00000000", Bytes: sound.Bytes}
		},
		"a data key that does not unwrap": func(_ sealer.Binding, _ []byte, sound sealer.Envelope) sealer.Envelope { return flip(sound, 40) },
		"another ciphertext": func(_ sealer.Binding, _ []byte, sound sealer.Envelope) sealer.Envelope {
			return flip(sound, len(sound.Bytes)-1)
		},
		"another secret": func(b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			return seal(env.sealer, b, "another")
		},
		"another key's": func(b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			b.KeyID = "byok_another"
			return seal(env.sealer, b, secretOf(b.KeyID))
		},
		"sealed by a stranger": func(b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			return seal(other, b, secretOf(b.KeyID))
		},
		"another data key to the same ciphertext": func(b sealer.Binding, old []byte, sound sealer.Envelope) sealer.Envelope {
			stranger := seal(env.sealer, b, secretOf(b.KeyID))
			payload := len(secretOf(b.KeyID)) + 12 + 16
			grafted := append(bytes.Clone(stranger.Bytes[:len(stranger.Bytes)-payload]), old[len(old)-payload:]...)
			require.True(t, sealer.SamePayload(grafted, sound.Bytes))
			return sealer.Envelope{KEKID: sound.KEKID, Bytes: grafted}
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := env.rows()
			bad := sealertest.Fake{Sealer: env.sealer, RewrapFunc: func(ctx context.Context, b sealer.Binding, old []byte) (sealer.Envelope, error) {
				sound, err := env.sealer.Rewrap(ctx, b, old)
				if err != nil || bytes.Equal(sound.Bytes, old) || b == keysetcheck.Binding() {
					return sound, err
				}
				return falsify(b, old, sound), nil
			}}
			_, err := New(Config{Store: env.Store, Sealer: bad}).Run(t.Context())
			require.ErrorIs(t, err, ErrUnsound)
			require.NotContains(t, err.Error(), "sk-secret")
			require.Equal(t, before, env.rows())
		})
	}
	env.requireOpens(env.sealer)
}

func TestReadBackMismatchStopsTheJob(t *testing.T) {
	each(t, 20, func(t *testing.T, env *env) {
		env.rotate()
		for name, alter := range map[string]func(*models.Rewrapping){
			"an envelope that was cut off": func(r *models.Rewrapping) { r.New = r.New[:len(r.New)-5] },
			"another KEK":                  func(r *models.Rewrapping) { r.KEKID = "local:00000000" },
		} {
			job := New(Config{Sealer: env.sealer, Store: fakeStore{env.Store, func(batch []models.Rewrapping) ([]string, error) {
				alter(&batch[0])
				return env.Rewrap(t.Context(), batch)
			}}})
			job.batch = 5
			result, err := job.Run(t.Context())
			require.ErrorIs(t, err, ErrNotStored, name)
			require.EqualValues(t, 5, result.Rewrapped, "the first batch was the last")
		}
	})
}
