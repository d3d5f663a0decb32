package models_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// suspend removes mia from web. That can be undone until a time.
func (f *fixture) suspend(until int64) models.Removal {
	r, err := within(f, func(tx *models.Tx) (models.Removal, error) {
		return tx.SuspendMember(models.Removal{ID: f.ids.Next("", time.Now()), CustomerID: acme, ProjectID: web, UserID: "mia", RestoreUntil: until},
			f.event(models.EventMemberRemoved, func(e *models.Event) { e.MemberID = "mia" }))
	})
	require.NoError(f.t, err)
	return r
}

func (f *fixture) restore() (models.Removal, error) {
	return within(f, func(tx *models.Tx) (models.Removal, error) {
		_, r, err := tx.RestoreMember(acme, web, "mia", f.event(models.EventMemberSet, func(e *models.Event) { e.MemberID = "mia" }))
		return r, err
	})
}

// serves reports whether a caller may act and has an own key that serves.
func (f *fixture) serves(c models.Caller) bool {
	own, _ := f.serving(c, "openai")
	return failure(f.Role(f.t.Context(), c, now())) == nil && own != ""
}

func TestARemovalSuspendsAndOnlyItsUndoingRestores(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web, "ios")
		c, err := f.token("", "01A", 0)
		require.NoError(t, err)
		key := f.register(f.own(c))
		require.True(t, f.serves(c))
		impact, err := f.RemovalImpact(t.Context(), acme, web, "mia", now())
		require.NoError(t, err)
		require.Equal(t, map[string]int{"openai": 1}, impact.OwnKeys)
		require.Equal(t, []int{0, 1}, []int{impact.TokensHere, impact.TokensElsewhere})

		since := f.position()
		r := f.suspend(now() + time.Hour.Microseconds())
		require.Equal(t, int64(1), r.Keys)
		require.Equal(t, models.IDSet(" 01A "), r.Tokens)
		changes := f.changes(&since)
		require.Len(t, changes, 1, "one event, and so one receipt")
		stop, isStop := changes[0].Stop()
		require.True(t, isStop)
		require.Equal(t, r.Stop(), stop)
		require.Equal(t, []string{"ios"}, f.projectsOf(c))

		require.NoError(t, f.setMember("mia", models.RoleMember))
		require.False(t, f.serves(c), "added again, the API key stays barred")
		c.TokenID = ""
		require.False(t, f.serves(c), "and the key disabled")
		got, err := f.GetKey(t.Context(), c, key.ID, now())
		require.NoError(t, err)
		require.Equal(t, models.StopDisabled, got.StopReason(now()))

		back, err := f.restore()
		require.NoError(t, err)
		require.Equal(t, []any{int64(1), r.Tokens}, []any{back.Keys, back.Tokens})
		c.TokenID = "01A"
		require.True(t, f.serves(c))
		_, err = f.restore()
		require.ErrorIs(t, err, models.ErrNotFound, "it was undone")
	})
}

func TestARemovalHasTheProjectsGrace(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const day = 24 * time.Hour
		f.joins(web)
		suspend := func(until int64) time.Duration {
			r := f.suspend(until)
			require.NoError(t, f.setMember("mia", models.RoleMember))
			return time.Duration(r.RestoreUntil-r.RemovedAt) * time.Microsecond
		}
		require.Equal(t, 30*day, suspend(0), "without a policy")
		for _, row := range []struct {
			days *int
			want time.Duration
		}{{new(365), 365 * day}, {nil, 30 * day}, {new(0), 0}} {
			policy := models.DefaultPolicy(acme, web)
			policy.RemovalGraceDays = row.days
			f.transact(func(tx *models.Tx) error { return tx.SetPolicy(&policy, "olga", f.event(models.EventPolicySet)) })
			require.Equal(t, row.want, suspend(0))
		}
		require.InDelta(t, time.Hour, suspend(now()+time.Hour.Microseconds()), float64(time.Minute), "the removal's own comes before the policy's")
	})
}

func TestAnImpactListsAtMost1000Keys(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web)
		_, err := f.token("", "01A", 0, web) // whose hash serves as the envelopes
		require.NoError(t, err)
		require.NoError(t, models.Exec(t.Context(), f.Store, `INSERT INTO ai_keys (id, customer_id, project_id, user_id, provider, name, display_suffix, version, envelope,
kek_id, created_at, created_by) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1001)
SELECT 'byok_' || i, 'acme', 'web', '', 'openai', 'key-' || i, 'abcd', 1, hash, 'local:0', 1, 'mia' FROM n JOIN api_tokens ON api_tokens.id = '01A'`))
		impact, err := f.RemovalImpact(t.Context(), acme, web, "mia", now())
		require.NoError(t, err)
		require.Len(t, impact.Registered, 1000)
		require.Equal(t, int64(1001), impact.RegisteredKeys)
	})
}

func TestUndoingARemovalResurrectsNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web, "ios")
		var callers []models.Caller
		for _, id := range []string{"01A", "01B", "01C"} { // revoked after the removal, barred before it, and barred after it
			c, err := f.token("", id, 0)
			require.NoError(t, err)
			callers = append(callers, c)
		}
		revoked, before, after := f.register(f.own(mia)), f.register(f.own(mia)), f.register(f.own(mia))
		disable := func(id string) {
			f.transact(func(tx *models.Tx) error {
				k, err := tx.LockKey(mia, id)
				require.NoError(t, err)
				return tx.UpdateKey(k, disable, "mia", func(e models.EventType) models.Event { return f.event(e, about(id)) })
			})
		}
		disable(before.ID)
		bar := func(id string) {
			f.transact(func(tx *models.Tx) error {
				_, _, err := tx.RevokeProjectToken(models.Caller{CustomerID: acme, ProjectID: web, UserID: "olga"}, id, false, f.tokenEvent)
				return err
			})
		}
		bar("01B")
		f.suspend(now() + time.Hour.Microseconds())
		require.NoError(t, f.setMember("mia", models.RoleMember))
		bar("01C")
		f.transact(func(tx *models.Tx) error {
			_, _, err := tx.RevokeOwnToken(mia, "01A", false, f.tokenEvent)
			return err
		})
		f.revoke(&revoked)
		disable(after.ID)
		disable(after.ID)
		require.Equal(t, []models.EventType{models.EventKeyDisabled}, f.kinds(after.ID), "once")
		_, err := f.restore()
		require.NoError(t, err)
		for _, c := range callers {
			_, err := f.Role(t.Context(), c, now())
			require.Error(t, err, c.TokenID)
		}
		require.False(t, f.serves(mia))
	})
}

func TestKeysOfRemovedMembersAreDestroyedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web)
		key := f.register(f.own(mia))
		destroy := func(at int64) int {
			n, err := f.DestroyRemoved(t.Context(), at, 10, f.keyEvent)
			require.NoError(t, err)
			return n
		}
		until := now() + time.Hour.Microseconds()
		f.suspend(until)
		require.Zero(t, destroy(until-1))
		sealed, err := f.SealedVersion(t.Context(), key.ID, 0)
		require.NoError(t, err)
		require.NotEmpty(t, sealed.Envelope)
		require.Equal(t, 1, destroy(until))
		require.Zero(t, destroy(until))
		_, err = f.SealedVersion(t.Context(), key.ID, 0)
		require.ErrorIs(t, err, models.ErrNotFound, "there is no envelope left")
		_, err = f.restore()
		require.ErrorIs(t, err, models.ErrNotFound)
		require.NoError(t, f.setMember("mia", models.RoleMember))
		got, err := f.GetKey(t.Context(), mia, key.ID, now())
		require.NoError(t, err)
		require.Equal(t, models.StopRevoked, got.StopReason(now()))
	})
}

func TestALaterRemovalCanEndAnEarlierOnesGrace(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.own(mia))
		f.suspend(now() + time.Hour.Microseconds())
		require.NoError(t, f.setMember("mia", models.RoleMember))
		until := now()
		f.suspend(until)
		_, err := f.restore()
		require.ErrorIs(t, err, models.ErrNotFound)
		found, err := f.DestroyRemoved(t.Context(), until, 10, f.keyEvent)
		require.NoError(t, err)
		require.Equal(t, 2, found)
		_, err = f.SealedVersion(t.Context(), key.ID, 0)
		require.ErrorIs(t, err, models.ErrNotFound)
	})
}

func TestTheLastOwnerIsNotSuspended(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.joins(web)
		for user, want := range map[string]error{"olga": models.ErrLastOwner, "absent": models.ErrNotFound} {
			_, err := within(f, func(tx *models.Tx) (models.Removal, error) {
				return tx.SuspendMember(models.Removal{ID: user, CustomerID: acme, ProjectID: web, UserID: user}, f.event(models.EventMemberRemoved))
			})
			require.ErrorIs(t, err, want)
		}
	})
}
