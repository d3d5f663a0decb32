package models_test

import (
	"testing"
	"time"

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

func TestACustomProviderWithKeysStays(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		vllm := models.CustomProvider{CustomerID: acme, Slug: "x-vllm", Name: "vLLM", BaseURL: "https://llm.example/v1", Dialect: "openai",
			Auth: "bearer", Digest: "d1", CreatedBy: "ops@host"}
		create := func(p models.CustomProvider) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.CreateCustomProvider(p) })
		}
		remove := func(customer string) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				return tx.DeleteCustomProvider(customer, "x-vllm", func(projectID string) models.Event {
					return f.event(models.EventProviderDeleted, func(e *models.Event) {
						e.ProjectID, e.ActorUserID, e.ActorMethod = projectID, "ops@host", models.MethodAdmin
					})
				})
			})
		}
		register := func(digest string) (models.Key, error) {
			r := f.shared(olga, provider("x-vllm"))
			r.Key.Destination = digest
			return f.RegisterKey(t.Context(), olga, models.RoleOwner, r, now())
		}
		_, err := register("d1")
		require.ErrorIs(t, err, models.ErrDestinationGone, "it does not exist yet")
		require.NoError(t, create(vllm))
		require.ErrorIs(t, create(vllm), models.ErrAlreadyExists)
		_, err = f.CustomProvider(t.Context(), "globex", web, "x-vllm")
		require.ErrorIs(t, err, models.ErrNotFound, "it is the customer's own")
		require.ErrorIs(t, remove("globex"), models.ErrNotFound)

		_, err = register("d2")
		require.ErrorIs(t, err, models.ErrDestinationGone, "the key was sealed for another one with that slug")
		key, err := register("d1")
		require.NoError(t, err)
		require.ErrorIs(t, remove(acme), models.ErrInUse)
		sealed, err := f.SealedVersion(t.Context(), key.ID, 0)
		require.NoError(t, err)
		require.Equal(t, "d1", sealed.Destination, "re-wrapping needs it")

		f.revoke(&key)
		require.NoError(t, remove(acme))
		all, err := f.ListCustomProviders(t.Context(), acme, "")
		require.NoError(t, err)
		require.Empty(t, all)
		trail, err := f.ListSystemEvents(t.Context(), models.SystemEventFilter{CustomerID: acme}, 2)
		require.NoError(t, err)
		require.Equal(t, []models.EventType{models.EventProviderDeleted, models.EventProviderCreated}, []models.EventType{trail[0].Type, trail[1].Type})
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{Type: models.EventProviderDeleted}, "", 10)
		require.NoError(t, err)
		require.Len(t, events, 1, "a project that had keys for it learns who took it away")
		require.Equal(t, []string{"ops@host", models.MethodAdmin, "x-vllm", "https://llm.example/v1"},
			[]string{events[0].ActorUserID, events[0].ActorMethod, events[0].Provider, events[0].Before.BaseURL})
		elsewhere, err := f.ListEvents(t.Context(), models.Caller{CustomerID: acme, ProjectID: "other", UserID: "olga"}, models.EventFilter{}, "", 10)
		require.NoError(t, err)
		require.Empty(t, elsewhere)
	})
}

func TestAProjectsProviderIsItsOwn(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		add := func(slug, project string) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				p := models.CustomProvider{CustomerID: acme, ProjectID: project, Slug: slug, Name: "n", BaseURL: "https://llm.example/v1", Digest: "d1", CreatedBy: "olga"}
				return tx.AddProjectProvider(&p, 2, f.event(models.EventProviderCreated))
			})
		}
		remove := func(slug, project string) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				return failure(tx.RemoveProjectProvider(models.Caller{CustomerID: acme, ProjectID: project, UserID: "olga"}, slug, f.event(models.EventProviderDeleted)))
			})
		}
		require.NoError(t, add("x-one", web))
		require.ErrorIs(t, add("x-one", "other"), models.ErrAlreadyExists, "a slug names one server of a customer")
		require.NoError(t, f.Transact(t.Context(), func(tx *models.Tx) error {
			return tx.CreateCustomProvider(models.CustomProvider{CustomerID: acme, Slug: "x-all", Digest: "d1"})
		}))
		require.NoError(t, add("x-two", "other"))
		require.NoError(t, add("x-three", web))
		require.ErrorIs(t, add("x-four", web), models.ErrQuotaExceeded, "the operator's does not count")

		usable, err := f.ListCustomProviders(t.Context(), acme, web)
		require.NoError(t, err)
		require.Equal(t, []string{"x-all", "x-one", "x-three"}, slugs(usable))
		_, err = f.CustomProvider(t.Context(), acme, web, "x-two")
		require.ErrorIs(t, err, models.ErrNotFound)
		r := f.shared(olga, provider("x-two"))
		r.Key.Destination = "d1"
		_, err = f.RegisterKey(t.Context(), olga, models.RoleOwner, r, now())
		require.ErrorIs(t, err, models.ErrDestinationGone, "it is another project's")

		require.ErrorIs(t, remove("x-two", web), models.ErrNotFound)
		require.ErrorIs(t, remove("x-all", web), models.ErrNotFound, "the operator removes what the operator added")
		require.NoError(t, remove("x-one", web))
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{Type: models.EventProviderDeleted}, "", 10)
		require.NoError(t, err)
		require.Len(t, events, 1)
		require.Equal(t, "https://llm.example/v1", events[0].Before.BaseURL)
	})
}

func TestAProviderIsNeverRemovedFromUnderAKey(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for range 10 {
			p := models.CustomProvider{CustomerID: acme, ProjectID: web, Slug: "x-race", Digest: "d1"}
			require.NoError(t, f.Transact(t.Context(), func(tx *models.Tx) error {
				return tx.AddProjectProvider(&p, 5, f.event(models.EventProviderCreated))
			}))
			r := f.shared(olga, provider("x-race"))
			r.Key.Destination = "d1"
			var key models.Key
			errs := together(2, func(i int) (err error) {
				if i == 0 {
					key, err = f.RegisterKey(t.Context(), olga, models.RoleOwner, r, now())
					return err
				}
				return f.Transact(t.Context(), func(tx *models.Tx) error {
					if _, err := tx.Role(olga); err != nil {
						return err
					}
					return failure(tx.RemoveProjectProvider(olga, "x-race", f.event(models.EventProviderDeleted)))
				})
			})
			if errs[0] == nil {
				require.ErrorIs(t, errs[1], models.ErrInUse)
				f.revoke(&key)
				require.NoError(t, f.Transact(t.Context(), func(tx *models.Tx) error {
					return tx.DeleteCustomProvider(acme, "x-race", func(string) models.Event { return f.event(models.EventProviderDeleted) })
				}))
			} else {
				require.ErrorIs(t, errs[0], models.ErrDestinationGone)
				require.NoError(t, errs[1])
			}
		}
	})
}

func slugs(all []models.CustomProvider) (slugs []string) {
	for _, p := range all {
		slugs = append(slugs, p.Slug)
	}
	return slugs
}

// suspend removes mia from web. The removal can be undone until a time.
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

// serves reports whether a caller may act in the project and has an own key that serves.
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
		_, err := f.token("", "01A", 0, web) // the hash of the token is used as the envelopes
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
