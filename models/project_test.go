package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// roles returns the members of acme/web in the order of the list, and their roles.
func (f *fixture) roles() (users []string, roles map[string]models.Role) {
	f.t.Helper()
	members, err := f.ListMembers(f.t.Context(), olga, "", 0)
	require.NoError(f.t, err)
	roles = map[string]models.Role{}
	for _, m := range members {
		users = append(users, m.UserID)
		roles[m.UserID] = m.Role
	}
	return users, roles
}

func TestTheLastOwnerStays(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		require.ErrorIs(t, f.removeMember("olga"), models.ErrLastOwner)
		require.ErrorIs(t, f.setMember("olga", models.RoleMember), models.ErrLastOwner)
		_, roles := f.roles()
		require.Equal(t, models.RoleOwner, roles["olga"])

		require.NoError(t, f.setMember("mia", models.RoleOwner))
		require.NoError(t, f.setMember("olga", models.RoleMember), "with a second owner the first may go")
		require.ErrorIs(t, f.removeMember("mia"), models.ErrLastOwner)
	})
}

func TestAnOwnerOfAnotherProjectIsNoOwnerHere(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.addMember(models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "ida"}, models.RoleOwner)
		f.addMember(models.Caller{CustomerID: "globex", ProjectID: web, UserID: "gus"}, models.RoleOwner)
		require.ErrorIs(t, f.removeMember("olga"), models.ErrLastOwner)
	})
}

func TestAProjectBeginsWithAnOwner(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		err := f.Transact(t.Context(), func(tx *models.Tx) error {
			if err := tx.EnsureProject(acme, "ios"); err != nil {
				return err
			}
			_, err := tx.SetMember(acme, "ios", "ida", models.RoleMember)
			return err
		})
		require.ErrorIs(t, err, models.ErrLastOwner)
	})
}

func TestTwoOwnersWhoRemoveEachOtherInParallelLeaveOne(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for range 10 {
			require.NoError(t, f.setMember("olga", models.RoleOwner))
			require.NoError(t, f.setMember("mia", models.RoleOwner))
			errs := together(2, func(i int) error {
				return []func() error{
					func() error { return f.removeMember("olga") },
					func() error { return f.setMember("mia", models.RoleMember) },
				}[i]()
			})
			if errs[0] == nil {
				require.ErrorIs(t, errs[1], models.ErrLastOwner)
			} else {
				require.ErrorIs(t, errs[0], models.ErrLastOwner)
				require.NoError(t, errs[1])
			}
		}
	})
}

func TestMembersComeChangeAndGo(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		set := func(role models.Role) (m models.Member) {
			f.transact(func(tx *models.Tx) (err error) {
				m, err = tx.SetMember(acme, web, "zoe", role)
				return err
			})
			return m
		}
		added := set(models.RoleMember)
		require.Equal(t, models.Member{CustomerID: acme, ProjectID: web, UserID: "zoe", Role: models.RoleMember,
			CreatedAt: added.CreatedAt, UpdatedAt: added.CreatedAt}, added)
		require.InDelta(t, now(), added.CreatedAt, 60e6)
		changed := set(models.RoleOwner)
		require.Equal(t, models.RoleOwner, changed.Role)
		require.Equal(t, added.CreatedAt, changed.CreatedAt)
		require.Greater(t, changed.UpdatedAt, added.UpdatedAt)

		users, roles := f.roles()
		require.Equal(t, []string{"mia", "moe", "olga", "zoe"}, users)
		require.Equal(t, models.RoleOwner, roles["zoe"])

		require.NoError(t, f.removeMember("zoe"))
		require.ErrorIs(t, f.removeMember("zoe"), models.ErrNotFound)
		users, _ = f.roles()
		require.Equal(t, []string{"mia", "moe", "olga"}, users)
	})
}

func TestMembersAreListedInPages(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		first, err := f.ListMembers(t.Context(), olga, "", 2)
		require.NoError(t, err)
		require.Len(t, first, 2)
		rest, err := f.ListMembers(t.Context(), olga, first[1].UserID, 2)
		require.NoError(t, err)
		require.Len(t, rest, 1)
		require.Equal(t, []string{"mia", "moe", "olga"}, []string{first[0].UserID, first[1].UserID, rest[0].UserID})
	})
}

func TestARoleThatIsNoneAndAProjectThatIsNoneAreRefused(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		require.Error(t, f.setMember("zoe", "admin"))
		err := f.Transact(t.Context(), func(tx *models.Tx) error {
			_, err := tx.SetMember(acme, "nowhere", "zoe", models.RoleOwner)
			return err
		})
		require.Error(t, err)
		users, _ := f.roles()
		require.NotContains(t, users, "zoe")
	})
}

func TestEnsureProjectIsIdempotentAlsoInParallel(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for _, err := range together(8, func(int) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.EnsureProject(acme, "ios") })
		}) {
			require.NoError(t, err)
		}
		require.Equal(t, 2, f.count("projects"))
	})
}

func TestAnEventIsReadAsItWasWritten(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		want := models.Event{CustomerID: acme, ProjectID: web, ScopeUserID: "mia", ID: "evt_1", Type: models.EventMemberSet,
			Outcome: models.OutcomeDenied, At: 7, ActorUserID: "mia", ActorMethod: "session", ActorTokenID: "01A", KeyID: "byok_1",
			Provider: "openai", MemberID: "moe", Role: models.RoleOwner, SourceIP: "2001:db8::1", RequestID: "req", Repeated: 9, FirstAt: 3}
		f.transact(func(tx *models.Tx) error { return tx.AppendEvent(want) })
		got, err := f.ListEvents(t.Context(), mia, models.EventFilter{}, "", 1)
		require.NoError(t, err)
		require.Equal(t, []models.Event{want}, got)
	})
}

func TestForgetIdempotencyTakesTheOldest(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for at := range int64(10) {
			f.register(f.shared(olga, retryable(string(rune('a'+at)), "same"), func(r *models.Registration) { r.Idempotency.CreatedAt = at }))
		}
		forget := func(before int64, limit int) (n int64) {
			f.transact(func(tx *models.Tx) (err error) {
				n, err = tx.ForgetIdempotency(before, limit)
				return err
			})
			return n
		}
		require.EqualValues(t, 0, forget(0, 100))
		require.EqualValues(t, 3, forget(7, 3))
		require.EqualValues(t, 4, forget(7, 100))
		require.EqualValues(t, 0, forget(7, 100))
		require.Equal(t, 3, f.size().idempotency)

		again := f.shared(olga, retryable("a", "another request"))
		require.Equal(t, again.Key.ID, f.register(again).ID, "a forgotten Idempotency-Key is new again")
		_, err := f.RegisterKey(t.Context(), olga, models.RoleOwner, f.shared(olga, retryable("h", "another request")), now())
		require.ErrorIs(t, err, models.ErrIdempotencyReuse, "a remembered one is not")
	})
}

func TestAPolicyIsReadAsItWasWritten(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		read := func() models.Policy {
			p, err := f.Policy(t.Context(), mia)
			require.NoError(t, err)
			return p
		}
		require.Equal(t, models.DefaultPolicy(acme, web), read())
		for _, written := range []models.Policy{
			{CustomerID: acme, ProjectID: web, UserKeys: models.UserKeysForbid, OnBadKey: models.OnBadKeyNextKey, OnLimited: models.OnLimitedNextKey, Operations: models.OperationsAll,
				RemovalGraceDays:   new(0),
				UserKeysByProvider: map[string]models.UserKeys{"openai": models.UserKeysRequire}},
			{CustomerID: acme, ProjectID: web, UserKeys: models.UserKeysAllow, OnBadKey: models.OnBadKeyFail, OnLimited: models.OnLimitedFail, Operations: models.OperationsInference,
				UserKeysByProvider: map[string]models.UserKeys{}},
			models.DefaultPolicy(acme, web),
		} {
			f.transact(func(tx *models.Tx) error { return tx.SetPolicy(&written, "olga", f.event(models.EventPolicySet)) })
			require.Equal(t, "olga", written.UpdatedBy)
			require.InDelta(t, now(), written.UpdatedAt, 60e6)
			require.Equal(t, written, read())
		}
		other, err := f.Policy(t.Context(), models.Caller{CustomerID: "globex", ProjectID: web})
		require.NoError(t, err)
		require.Equal(t, models.DefaultPolicy("globex", web), other)
	})
}

func TestAPolicysProviderEntryComesBeforeItsGeneralOne(t *testing.T) {
	p := models.Policy{UserKeys: models.UserKeysAllow, UserKeysByProvider: map[string]models.UserKeys{"openai": models.UserKeysForbid}}
	require.Equal(t, models.UserKeysForbid, p.For("openai"))
	require.Equal(t, models.UserKeysAllow, p.For("anthropic"))
}
