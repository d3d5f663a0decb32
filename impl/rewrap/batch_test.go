package rewrap_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// badSealer falsifies the envelopes that it re-wraps, except the canary's.
type badSealer struct {
	sealer.Sealer
	lie func(ctx context.Context, b sealer.Binding, old []byte, sound sealer.Envelope) sealer.Envelope
}

func (l badSealer) Rewrap(ctx context.Context, b sealer.Binding, old []byte) (sealer.Envelope, error) {
	sound, err := l.Sealer.Rewrap(ctx, b, old)
	if err != nil || bytes.Equal(sound.Bytes, old) || b.KeyID == "canary" {
		return sound, err
	}
	return l.lie(ctx, b, old, sound), nil
}

func TestUnsoundEnvelopeIsNeverWritten(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 5)
	env.rotate()
	other := sealertest.New(t)
	seal := func(ctx context.Context, s sealer.Sealer, b sealer.Binding, secret string) sealer.Envelope {
		envelope, err := s.Seal(ctx, b, sealer.NewSecret([]byte(secret)))
		require.NoError(t, err)
		return envelope
	}
	type lie = func(context.Context, sealer.Binding, []byte, sealer.Envelope) sealer.Envelope
	flipped := func(at int) lie {
		return func(_ context.Context, _ sealer.Binding, _ []byte, sound sealer.Envelope) sealer.Envelope {
			i := (at + len(sound.Bytes)) % len(sound.Bytes)
			sound.Bytes[i] ^= 1
			return sound
		}
	}
	for name, lie := range map[string]lie{
		"no envelope": func(context.Context, sealer.Binding, []byte, sealer.Envelope) sealer.Envelope {
			return sealer.Envelope{KEKID: "local:00000000", Bytes: []byte("rubbish")}
		},
		"nothing": func(context.Context, sealer.Binding, []byte, sealer.Envelope) sealer.Envelope {
			return sealer.Envelope{}
		},
		"the name of another KEK": func(_ context.Context, _ sealer.Binding, _ []byte, sound sealer.Envelope) sealer.Envelope {
			return sealer.Envelope{KEKID: "local:00000000", Bytes: sound.Bytes}
		},
		"a data key that does not unwrap": flipped(40),
		"another ciphertext":              flipped(-1),
		"another secret": func(ctx context.Context, b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			return seal(ctx, env.sealer, b, "another")
		},
		"another key's": func(ctx context.Context, b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			b.KeyID = "byok_another"
			return seal(ctx, env.sealer, b, secretOf(b.KeyID))
		},
		"sealed by a stranger": func(ctx context.Context, b sealer.Binding, _ []byte, _ sealer.Envelope) sealer.Envelope {
			return seal(ctx, other, b, secretOf(b.KeyID))
		},
		"another data key to the same ciphertext": func(ctx context.Context, b sealer.Binding, old []byte, sound sealer.Envelope) sealer.Envelope {
			stranger := seal(ctx, env.sealer, b, secretOf(b.KeyID))
			payload := len(secretOf(b.KeyID)) + 12 + 16
			grafted := append(bytes.Clone(stranger.Bytes[:len(stranger.Bytes)-payload]), old[len(old)-payload:]...)
			require.True(t, sealer.SamePayload(grafted, sound.Bytes))
			return sealer.Envelope{KEKID: sound.KEKID, Bytes: grafted}
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := env.rows()
			_, err := rewrap.New(rewrap.Config{Store: env.Store, Sealer: badSealer{env.sealer, lie}}).Run(t.Context())
			require.ErrorIs(t, err, rewrap.ErrUnsound)
			require.NotContains(t, err.Error(), "sk-secret")
			require.Equal(t, before, env.rows())
		})
	}
	env.requireAllOpen(env.sealer)
}

// badStore alters the first change of each batch before it stores it.
type badStore struct {
	rewrap.Store
	swap func(*models.Rewrapping)
}

func (c badStore) Rewrap(ctx context.Context, batch []models.Rewrapping) ([]string, error) {
	c.swap(&batch[0])
	return c.Store.Rewrap(ctx, batch)
}

func TestReadBackMismatchStopsTheJob(t *testing.T) {
	each(t, 20, func(t *testing.T, env *env) {
		env.rotate()
		job := rewrap.New(rewrap.Config{Sealer: env.sealer, Store: badStore{env.Store, func(r *models.Rewrapping) { r.New = r.New[:len(r.New)-5] }}})
		result, err := rewrap.AtEachStep(job, 5, func(string) {}).Run(t.Context())
		require.ErrorIs(t, err, rewrap.ErrNotStored)
		require.EqualValues(t, 5, result.Rewrapped, "the first batch was the last")
		job = rewrap.New(rewrap.Config{Sealer: env.sealer, Store: badStore{env.Store, func(r *models.Rewrapping) { r.KEKID = "local:00000000" }}})
		_, err = job.Run(t.Context())
		require.ErrorIs(t, err, rewrap.ErrNotStored)
	})
}
