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

// What data planes must learn of is committed with the event that tells them, and once.
func TestChangesForDataPlanesComeWithTheirEvents(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		withToken(f, "01A", 0, 0)
		at := f.position()
		policy := models.DefaultPolicy(acme, web)
		policy.UserKeys = models.UserKeysForbid
		for _, act := range []struct {
			kind models.EventType
			do   func(*models.Tx, models.Event) error
			// again is what doing it a second time returns, and whether that stores another event.
			again  error
			stores bool
		}{
			{models.EventKeyRevoked, func(tx *models.Tx, e models.Event) error {
				_, err := tx.RevokeKey(&models.Key{ID: key.ID}, "olga", e)
				return err
			}, nil, false},
			{models.EventTokenRevoked, func(tx *models.Tx, e models.Event) error {
				_, err := tx.RevokeToken(acme, web, "01A", e)
				return err
			}, nil, false},
			{models.EventMemberRemoved, func(tx *models.Tx, e models.Event) error { return tx.RemoveMember(acme, web, "moe", e) }, models.ErrNotFound, false},
			{models.EventPolicySet, func(tx *models.Tx, e models.Event) error { return tx.SetPolicy(&policy, "olga", e) }, nil, true},
		} {
			do := func() error {
				event := f.event(act.kind)
				return f.Transact(t.Context(), func(tx *models.Tx) error { return act.do(tx, event) })
			}
			require.NoError(t, do(), act.kind)
			changes := f.changes(&at)
			require.Len(t, changes, 1, act.kind)
			require.Equal(t, act.kind, changes[0].Type)
			require.ErrorIs(t, do(), act.again, act.kind)
			require.Equal(t, act.stores, len(f.changes(&at)) > 0, act.kind)
		}
	})
}
