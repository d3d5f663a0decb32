package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// announcedActs are the acts that data planes must hear of, each by the type of its event; each does anew what it does.
func announcedActs(keyID string) map[models.EventType]func(*models.Tx) error {
	return map[models.EventType]func(*models.Tx) error{
		models.EventKeyRevoked: func(tx *models.Tx) error {
			first, err := tx.RevokeKey(&models.Key{ID: keyID}, "olga")
			if err == nil && !first {
				return errRefused
			}
			return err
		},
		models.EventTokenRevoked:  func(tx *models.Tx) error { _, err := tx.RevokeToken(acme, web, "01A"); return err },
		models.EventMemberRemoved: removing("moe"),
		models.EventPolicySet: func(tx *models.Tx) error {
			policy := models.DefaultPolicy(acme, web)
			policy.UserKeys = models.UserKeysForbid
			return tx.SetPolicy(&policy, "olga")
		},
	}
}

// announcedState is all that those acts change, and what else is written with them.
type announcedState struct {
	key      models.Key
	token    models.Token
	roles    map[string]models.Role
	policy   models.Policy
	projects int
	events   int
}

func (f *fixture) announcedState(keyID string) (s announcedState) {
	f.t.Helper()
	var err error
	s.key, err = f.GetKey(f.t.Context(), olga, keyID, now())
	require.NoError(f.t, err)
	s.token, err = f.FindToken(f.t.Context(), "01A")
	require.NoError(f.t, err)
	s.policy, err = f.Policy(f.t.Context(), olga)
	require.NoError(f.t, err)
	_, s.roles = f.roles()
	s.projects, s.events = f.count("projects"), f.count("events")
	return s
}

func TestWhatDataPlanesMustHearOfIsCommittedWithTheEventThatSaysSoOrNotAtAll(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		withToken(f, "01A", 0, 0)
		before, at := f.announcedState(key.ID), f.position()
		appends := func(e models.Event) func(*models.Tx) error {
			return func(tx *models.Tx) error { return tx.AppendEvent(e) }
		}
		inOrder := func(acts ...func(*models.Tx) error) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				for _, act := range append(acts, func(tx *models.Tx) error { return tx.EnsureProject(acme, "ios") }) {
					if err := act(tx); err != nil {
						return err
					}
				}
				return nil
			})
		}
		for kind, act := range announcedActs(key.ID) {
			event := f.event(kind, about(key.ID))
			another, denied := event, event
			another.CustomerID, denied.Outcome = "globex", models.OutcomeDenied
			theirs := func(tx *models.Tx) error {
				policy := models.DefaultPolicy("globex", web)
				if err := tx.EnsureProject("globex", web); err != nil {
					return err
				}
				return tx.SetPolicy(&policy, "olga")
			}
			for name, acts := range map[string][]func(*models.Tx) error{
				"without an event":                     {act},
				"with one of a denied act":             {act, appends(denied)},
				"with one of another customer":         {act, appends(another)},
				"with one that came before it":         {appends(event), act},
				"with one for it, and none for theirs": {act, theirs, appends(event)},
			} {
				require.ErrorIs(t, inOrder(acts...), models.ErrUnannounced, "%s %s", kind, name)
				require.Equal(t, before, f.announcedState(key.ID), "%s %s", kind, name)
			}
		}
		require.Empty(t, f.changes(&at))

		for kind, act := range announcedActs(key.ID) {
			last := f.announcedState(key.ID)
			require.NoError(t, inOrder(act, appends(f.event(kind))), kind)
			require.Equal(t, kind, f.changes(&at)[0].Type)
			next := f.announcedState(key.ID)
			require.Equal(t, last.events+1, next.events)
			next.events, next.projects, last.events, last.projects = 0, 0, 0, 0
			require.NotEqual(t, last, next, kind)
		}
	})
}

func TestWhatHadBeenRevokedBeforeNeedsNoEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		f.revoke(key)
		withToken(f, "01A", 0, 1)
		f.transact(func(tx *models.Tx) error {
			first, err := tx.RevokeKey(&key, "olga")
			require.False(t, first)
			if err == nil {
				_, err = tx.RevokeToken(acme, web, "01A")
			}
			return err
		})
	})
}
