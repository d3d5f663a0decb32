package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func TestARowWhoseVersionIsNoneBreaksNoList(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		sound, damaged := f.register(f.shared(olga)), f.register(f.shared(olga))
		require.NoError(t, models.Exec(t.Context(), f.Store, `UPDATE ai_keys SET version = -1 WHERE id = '`+damaged.ID+`'`))
		keys, err := f.ListKeys(t.Context(), olga, models.KeyFilter{}, now())
		require.NoError(t, err)
		require.Len(t, keys, 2)
		got, err := f.GetKey(t.Context(), olga, sound.ID, now())
		require.NoError(t, err)
		require.EqualValues(t, 1, got.Version)
		got, err = f.GetKey(t.Context(), olga, damaged.ID, now())
		require.NoError(t, err)
		require.Zero(t, got.Version, "which no envelope opens under")
	})
}
