package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestKeysByKEKCountsRevokedKeysToo(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		none, err := f.KeysByKEK(t.Context())
		require.NoError(t, err)
		require.Empty(t, none)
		old := func(r *models.Registration) { r.Key.KEKID = "kek-0" }
		f.revoke(f.register(f.shared(olga, old)))
		f.register(f.own(mia, old))
		f.register(f.shared(olga))
		counts, err := f.KeysByKEK(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"kek-0": 2, "kek-1": 1}, counts)
	})
}

func TestThePoolsConnectionsAreCounted(t *testing.T) {
	store := modelstest.OpenStore(t, modelstest.EnginePostgres.URL(t), models.Options{MaxConns: 3})
	require.Equal(t, models.PoolStats{Max: 3}, store.Stats())
	conn, err := models.Conn(store).Conn(t.Context())
	require.NoError(t, err)
	require.Equal(t, models.PoolStats{InUse: 1, Max: 3, Waits: 1}, store.Stats())
	require.NoError(t, conn.Close())
	require.Equal(t, models.PoolStats{Idle: 1, Max: 3, Waits: 1}, store.Stats())
}
