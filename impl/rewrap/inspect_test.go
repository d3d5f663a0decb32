package rewrap

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func inspect(t *testing.T, env *env, s sealer.Sealer) *Inspector {
	t.Helper()
	i, err := NewInspector(t.Context(), env.Store, s)
	require.NoError(t, err)
	return i
}

func TestCountAndSample(t *testing.T) {
	each(t, 2, func(t *testing.T, env *env) {
		retired := inspect(t, env, env.sealer).Primary()
		env.rotate()
		enabled := inspect(t, env, env.sealer).Primary()
		env.registerMany(3)
		env.rotate()
		env.registerMany(4)
		foreign := sealertest.New(t)
		row := env.rows()[8]
		envelope, err := foreign.Seal(t.Context(), bindingOf(row), sealer.NewSecret([]byte("x")))
		require.NoError(t, err)
		env.replace(row.ID, envelope.Bytes, envelope.KEKID)
		require.NoError(t, local.Retire(env.keyset, retired))
		env.sealer = openKeyset(t, env.keyset)

		i := inspect(t, env, env.sealer)
		primary, err := env.sealer.PrimaryKEK(t.Context())
		require.NoError(t, err)
		require.Equal(t, primary, i.Primary())
		want := []KEKKeys{
			{KEK: sealer.KEK{ID: i.Primary(), State: sealer.KEKPrimary}, Current: 3},
			{KEK: sealer.KEK{ID: enabled, State: sealer.KEKEnabled}, OldKEK: 3},
			{KEK: sealer.KEK{ID: retired, State: sealer.KEKRetired}, Unreadable: 2},
			{KEK: sealer.KEK{ID: envelope.KEKID, State: KEKUnknown}, Unreadable: 1},
		}
		counts, err := i.Count(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, counts)

		before := env.rows()
		tried, unreadable, err := i.Sample(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, want, tried, "an attempt comes to the same while nothing is damaged")
		require.Equal(t, []string{before[0].ID, before[1].ID, before[8].ID},
			[]string{unreadable[0].KeyID, unreadable[1].KeyID, unreadable[2].KeyID})
		require.Len(t, unreadable, 3)
		require.Equal(t, before, env.rows(), "and writes nothing")

		sample, unreadable, err := i.Sample(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, unreadable, 2)
		for _, kek := range sample {
			require.EqualValues(t, 1, kek.All(), kek.ID)
		}
	})
}

func TestCheckFindsDamageWithoutOpening(t *testing.T) {
	each(t, 3, func(t *testing.T, env *env) {
		keys := env.rows()
		env.replace(keys[1].ID, keys[0].Envelope, keys[1].KEKID)
		env.replace(keys[2].ID, []byte("rubbish"), keys[2].KEKID)
		i := inspect(t, env, withoutOpen(env.sealer))
		counts, err := i.Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 3, counts[0].Current)
		_, unreadable, err := i.Sample(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, []string{"it was changed, or belongs to another row", "it is not an envelope"},
			[]string{unreadable[0].Reason, unreadable[1].Reason})
		require.Equal(t, []string{keys[1].ID, keys[2].ID}, []string{unreadable[0].KeyID, unreadable[1].KeyID})

		for n, want := range []State{StateCurrent, StateCurrent, StateUnreadable} {
			require.Equal(t, want, i.Classify(env.rows()[n]).State)
		}
		seals, err := i.Check(t.Context(), env.rows())
		require.NoError(t, err)
		for n, want := range []State{StateCurrent, StateUnreadable, StateUnreadable} {
			require.Equal(t, want, seals[n].State)
			require.Equal(t, n > 0, seals[n].Reason() != "")
		}
	})
}

func TestCountWithAKEKInTwoSealers(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 1)
	i := inspect(t, env, sealer.Migrating(env.sealer, openKeyset(t, env.keyset), sealertest.New(t)))
	counts, err := i.Count(t.Context())
	require.NoError(t, err)
	require.Len(t, counts, 2)
	require.Equal(t, sealer.KEKPrimary, counts[0].State)
	require.EqualValues(t, 1, counts[0].Current)
	require.Equal(t, StateUnreadable, i.Classify(models.Key{Envelope: []byte("x"), KEKID: i.Primary()}).State)
}

func TestInspectorUnavailableSealer(t *testing.T) {
	env := newEnv(t, modelstest.EngineSQLite, 1)
	away := sealertest.NewUnavailable(env.sealer)
	_, err := NewInspector(t.Context(), env.Store, away)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	away.SetAvailable(true)
	i := inspect(t, env, away)
	away.SetAvailable(false)
	_, _, err = i.Sample(t.Context(), 0)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
}
