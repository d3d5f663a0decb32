package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

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
