package models_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestKeysByKEKCountsRevokedKeysToo(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		none, err := f.KeysByKEK(t.Context())
		require.NoError(t, err)
		require.Empty(t, none)
		old := func(r *models.Registration) { r.Key.KEKID = "kek-0" }
		revoked := f.register(f.shared(olga, old))
		f.revoke(&revoked)
		f.register(f.own(mia, old))
		f.register(f.shared(olga))
		counts, err := f.KeysByKEK(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"kek-0": 2, "kek-1": 1}, counts)
	})
}

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

func TestRegisterStoresKeyEventAndIdempotency(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		r := f.own(mia, provider("anthropic"), retryable("once", "same"))
		r.Event.ActorMethod, r.Event.ActorTokenID, r.Event.SourceIP, r.Event.RequestID = "api_key", "token", "192.0.2.1", "req-1"
		got, err := f.RegisterKey(t.Context(), mia, models.RoleMember, r, now())
		require.NoError(t, err)
		require.Equal(t, r.Key, got)
		require.Equal(t, size{keys: 1, events: 1, idempotency: 1}, f.size())
		events, err := f.ListEvents(t.Context(), mia, models.EventFilter{}, "", 10)
		require.NoError(t, err)
		require.Equal(t, []models.Event{r.Event}, events)

		f.register(f.shared(olga))
		require.Equal(t, size{keys: 2, events: 2, idempotency: 1}, f.size(), "no record without an Idempotency-Key")
	})
}

// Each of the three inserts fails in turn, because a value is taken.
func TestRegisterWritesAllOrNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		taken := f.register(f.shared(olga, named("prod"))).ID
		events, err := f.ListEvents(t.Context(), olga, models.EventFilter{}, "", 1)
		require.NoError(t, err)
		before := f.size()
		for name, change := range map[string]func(*models.Registration){
			"the key's name": named("prod"),
			"the key's id":   func(r *models.Registration) { r.Key.ID = taken },
			"the event's id": func(r *models.Registration) { r.Event.ID = events[0].ID },
		} {
			t.Run(name+" is taken", func(t *testing.T) {
				for _, r := range []models.Registration{f.shared(olga, change), f.shared(olga, change, retryable("once", "same"))} {
					_, err := f.RegisterKey(t.Context(), olga, models.RoleOwner, r, now())
					require.ErrorIs(t, err, models.ErrAlreadyExists)
					require.Equal(t, before, f.size())
				}
			})
		}
		t.Run("the idempotency key is free again", func(t *testing.T) {
			r := f.shared(olga, named("staging"), retryable("once", "same"))
			require.Equal(t, r.Key.ID, f.register(r).ID)
		})
	})
}

func TestANameIsUniqueAmongActiveKeysOfAProviderAndScope(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ios := models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "olga"}
		globex := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "olga"}
		f.addMember(ios, models.RoleOwner)
		f.addMember(globex, models.RoleOwner)
		first := f.register(f.shared(olga, named("prod")))
		refused := func(t *testing.T) {
			_, err := f.RegisterKey(t.Context(), olga, models.RoleOwner, f.shared(olga, named("prod")), now())
			require.ErrorIs(t, err, models.ErrAlreadyExists)
		}
		refused(t)
		for name, r := range map[string]models.Registration{
			"another provider": f.shared(olga, named("prod"), provider("anthropic")),
			"an own key":       f.own(olga, named("prod")),
			"another's own":    f.own(mia, named("prod")),
			"another project":  f.shared(ios, named("prod")),
			"another customer": f.shared(globex, named("prod")),
			"another case":     f.shared(olga, named("Prod")),
		} {
			t.Run(name+" may have it too", func(*testing.T) { f.register(r) })
		}
		t.Run("free again after a revoke, time and again", func(t *testing.T) {
			f.revoke(&first)
			second := f.register(f.shared(olga, named("prod")))
			refused(t)
			f.revoke(&second)
			f.register(f.shared(olga, named("prod")))
		})
	})
}

func TestRegisteringOneNameInParallelHasOneWinner(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 32
		requests := make([]models.Registration, n)
		for i := range requests {
			requests[i] = f.shared(olga, named("prod"))
		}
		before := f.size()
		wins := 0
		for _, err := range together(n, func(i int) error {
			_, err := f.RegisterKey(t.Context(), olga, models.RoleOwner, requests[i], now())
			return err
		}) {
			if err == nil {
				wins++
				continue
			}
			require.ErrorIs(t, err, models.ErrAlreadyExists)
		}
		require.Equal(t, 1, wins)
		require.Equal(t, size{before.keys + 1, before.events + 1, 0}, f.size())
	})
}

func TestOneIdempotencyKeyInParallelMakesOneKeyThatAllGet(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		requests := make([]models.Registration, 32)
		for i := range requests {
			requests[i] = f.shared(olga, named("prod"), retryable("once", "same"))
		}
		keys := make([]models.Key, len(requests))
		for _, err := range together(len(requests), func(i int) (err error) {
			keys[i], err = f.RegisterKey(t.Context(), olga, models.RoleOwner, requests[i], now())
			return err
		}) {
			require.NoError(t, err)
		}
		for _, k := range keys {
			require.Equal(t, keys[0].ID, k.ID)
			require.Equal(t, keys[0].CreatedAt, k.CreatedAt)
			require.Equal(t, uint32(1), k.Version)
		}
		require.Equal(t, size{1, 1, 1}, f.size())
	})
}

func TestParallelReuseOfAnIdempotencyKey(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		requests := make([]models.Registration, 32)
		for i := range requests {
			requests[i] = f.shared(olga, named([]string{"prod", "staging"}[i%2]),
				retryable("once", []string{"request for prod", "request for staging"}[i%2]))
		}
		keys, served := make([]models.Key, len(requests)), map[string]int{}
		for i, err := range together(len(requests), func(i int) (err error) {
			keys[i], err = f.RegisterKey(t.Context(), olga, models.RoleOwner, requests[i], now())
			return err
		}) {
			if err != nil {
				require.ErrorIs(t, err, models.ErrIdempotencyReuse)
				continue
			}
			require.Equal(t, requests[i].Key.Name, keys[i].Name)
			served[keys[i].ID]++
		}
		require.Len(t, served, 1)
		for _, times := range served {
			require.Equal(t, 16, times)
		}
		require.Equal(t, size{1, 1, 1}, f.size())
	})
}

func TestARetryGetsTheSameKeyAlsoAfterItWasRevoked(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		first := f.register(f.shared(olga, named("prod"), retryable("once", "same")))
		f.revoke(&first)
		again := f.register(f.shared(olga, named("prod"), retryable("once", "same")))
		require.Equal(t, first.ID, again.ID)
		require.NotZero(t, again.RevokedAt)
		require.Equal(t, 1, f.size().keys)
	})
}

func TestAnIdempotencyKeyBelongsToItsUserAndProject(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ios := models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "olga"}
		f.addMember(ios, models.RoleOwner)
		for _, c := range []models.Caller{olga, mia, ios} {
			r := f.own(c, retryable("once", "request of "+c.UserID+c.ProjectID))
			require.Equal(t, r.Key.ID, f.register(r).ID)
		}
		require.Equal(t, size{3, 3, 3}, f.size())
	})
}

func TestARetryIsCheckedLikeAFirstRequest(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		r := f.own(mia, retryable("once", "same"))
		f.register(r)
		require.NoError(t, f.removeMember("mia"))
		_, err := f.RegisterKey(t.Context(), mia, models.RoleMember, r, now())
		require.ErrorIs(t, err, models.ErrNotMember)
	})
}

func TestARegisterWithACancelledContextWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.RegisterKey(ctx, olga, models.RoleOwner, f.shared(olga), now())
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, size{}, f.size())
	})
}

func TestParallelRevokesKeepTheFirst(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		type revoked struct {
			key   models.Key
			first bool
			err   error
		}
		users := []string{"ann", "bob", "cid", "dot"}
		answers := together(16, func(i int) revoked {
			got := revoked{key: models.Key{ID: key.ID}}
			got.err = f.Transact(t.Context(), func(tx *models.Tx) (err error) {
				got.first, err = tx.RevokeKey(&got.key, users[i%len(users)], f.event(models.EventKeyRevoked))
				return err
			})
			return got
		})
		stands, err := f.GetKey(t.Context(), olga, key.ID, now())
		require.NoError(t, err)
		firsts := 0
		for _, a := range answers {
			require.NoError(t, a.err)
			require.Equal(t, stands.RevokedAt, a.key.RevokedAt)
			require.Equal(t, stands.RevokedBy, a.key.RevokedBy)
			if a.first {
				firsts++
			}
		}
		require.Equal(t, 1, firsts)
		require.Contains(t, users, stands.RevokedBy)
	})
}

func TestRevokingAKeyThatIsNotThereIsNotFound(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var done bool
		err := f.Transact(t.Context(), func(tx *models.Tx) (err error) {
			done, err = tx.RevokeKey(&models.Key{ID: "byok_absent"}, "olga", f.event(models.EventKeyRevoked))
			return err
		})
		require.ErrorIs(t, err, models.ErrNotFound)
		require.False(t, done)
	})
}

func TestListIsNewestFirstOverBothScopes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var want []string
		for range 5 {
			want = append(want, f.register(f.shared(olga)).ID, f.register(f.own(mia)).ID)
			f.register(f.own(moe))
		}
		slices.Reverse(want)
		require.Equal(t, want, ids(f.list(mia, models.KeyFilter{})))
	})
}

func TestAnEmptyProjectListsNoKeysAndIsNoError(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		keys := f.list(mia, models.KeyFilter{})
		require.NotNil(t, keys)
		require.Empty(t, keys)
	})
}

func TestListFilters(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		openaiActive := f.register(f.shared(olga, provider("openai"))).ID
		anthropicActive := f.register(f.own(mia, provider("anthropic"))).ID
		revoked := f.register(f.shared(olga, provider("openai")))
		f.revoke(&revoked)
		openaiRevoked := revoked.ID
		for _, tc := range []struct {
			name   string
			filter models.KeyFilter
			want   []string
		}{
			{"none", models.KeyFilter{}, []string{openaiRevoked, anthropicActive, openaiActive}},
			{"provider", models.KeyFilter{Provider: "openai"}, []string{openaiRevoked, openaiActive}},
			{"a provider without keys", models.KeyFilter{Provider: "mistral"}, []string{}},
			{"active", models.KeyFilter{State: models.KeyActive}, []string{anthropicActive, openaiActive}},
			{"revoked", models.KeyFilter{State: models.KeyRevoked}, []string{openaiRevoked}},
			{"both", models.KeyFilter{Provider: "openai", State: models.KeyActive}, []string{openaiActive}},
			{"with a limit", models.KeyFilter{Provider: "openai", Limit: 1}, []string{openaiRevoked}},
			{"with a page before", models.KeyFilter{Provider: "openai", Before: openaiRevoked}, []string{openaiActive}},
			{"nothing follows the last", models.KeyFilter{Before: openaiActive}, []string{}},
		} {
			t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, ids(f.list(mia, tc.filter))) })
		}
	})
}

func TestListWithoutALimitReturnsAll(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 120
		for range n {
			f.register(f.shared(olga))
		}
		for _, limit := range []int{0, -1, n, n + 1} {
			require.Len(t, f.list(mia, models.KeyFilter{Limit: limit}), n, "limit %d", limit)
		}
		require.Len(t, f.list(mia, models.KeyFilter{Limit: n - 1}), n-1)
	})
}

// The test walks through the pages with page sizes from one key to more than all keys. Before each page, keys are
// added, revoked, and registered by others. A key from before the walk comes exactly once. A key that is added during
// the walk comes at most once.
func TestPagingWalksEveryKeyExactlyOnceWhileKeysComeAndGo(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 12
		var want []string
		for i := range n {
			k := f.register([]models.Registration{f.shared(olga), f.own(mia)}[i%2])
			want = append(want, k.ID)
			if i%3 == 0 {
				f.revoke(&k)
			}
		}
		for _, size := range []int{1, 2, 5, n, 100} {
			var seen []string
			before := ""
			for {
				page := f.list(mia, models.KeyFilter{Before: before, Limit: size})
				if len(page) == 0 {
					break
				}
				require.LessOrEqual(t, len(page), size)
				for _, k := range page {
					require.NotContains(t, seen, k.ID)
					seen = append(seen, k.ID)
				}
				before = page[len(page)-1].ID
				f.register(f.own(moe))
				added := f.register(f.shared(olga))
				f.revoke(&added)
				f.revoke(&page[0])
			}
			require.Subset(t, seen, want, "page size %d", size)
			require.True(t, slices.IsSortedFunc(seen, func(a, b string) int { return strings.Compare(b, a) }))
		}
	})
}

func TestAPageIsFullWhateverOtherUsersRegister(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		oldest := f.register(f.own(mia)).ID
		shared := f.register(f.shared(olga)).ID
		for range 20 {
			f.register(f.own(moe))
		}
		require.Equal(t, []string{shared, oldest}, ids(f.list(mia, models.KeyFilter{Limit: 2})))
	})
}

func TestMetadataIsWholeAndNeverCarriesTheEnvelope(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		stored := f.register(f.own(mia, named("laptop"), provider("anthropic"),
			func(r *models.Registration) { r.Key.Version = 3 }))
		f.revoke(&stored)
		got, err := f.GetKey(t.Context(), mia, stored.ID, now())
		require.NoError(t, err)
		require.NotZero(t, got.RevokedAt)
		require.NotZero(t, got.RevocationTx)
		want := stored
		want.Envelope, want.KEKID = nil, ""
		want.RevokedAt, want.RevokedBy, want.RevocationTx = got.RevokedAt, "olga", got.RevocationTx
		require.Equal(t, want, got)
		require.Equal(t, []models.Key{want}, f.list(mia, models.KeyFilter{}))
	})
}

func TestNoReadOfMetadataCarriesAnEnvelope(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		own, shared := f.register(f.own(mia)), f.register(f.shared(olga))
		serving, err := f.ServingKeys(t.Context(), mia, "openai", now())
		require.NoError(t, err)
		require.Equal(t, own.ID, serving.Own[0].ID)
		require.Equal(t, shared.ID, serving.Project[0].ID)
		require.Empty(t, serving.Own[0].Envelope)
		require.Empty(t, serving.Project[0].Envelope)
		var read models.Key
		f.transact(func(tx *models.Tx) (err error) {
			read, err = tx.Key(mia, own.ID)
			return err
		})
		require.Equal(t, own.ID, read.ID)
		require.Empty(t, read.Envelope)
	})
}

// Most databases sort text by the rules of a language. Pages and look-ups must not depend on that.
func TestTextSortsByItsBytesInADatabaseThatSortsEnglish(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.MigratedURL(t)
		if e == modelstest.EnginePostgres {
			plain := modelstest.Postgres(t)
			admin := modelstest.OpenStore(t, modelstest.EnginePostgres.URL(t), models.Options{Timeout: time.Minute})
			at := strings.LastIndex(plain, "/") + 1
			name, _, _ := strings.Cut(plain[at:], "?")
			for _, statement := range []string{"DROP DATABASE " + name,
				"CREATE DATABASE " + name + " TEMPLATE template0 STRATEGY file_copy LOCALE_PROVIDER icu ICU_LOCALE 'en'"} {
				_, err := models.Conn(admin).ExecContext(t.Context(), statement)
				require.NoError(t, err)
			}
			url = migrate(t, plain)
		}
		f := newFixture(t, url, models.Options{})
		for _, user := range []string{"Zoe", "_sys", "a.b", "a-b", "ab"} {
			require.NoError(t, f.setMember(user, models.RoleMember))
		}
		users, _ := f.roles()
		require.Equal(t, []string{"Zoe", "_sys", "a-b", "a.b", "ab", "mia", "moe", "olga"}, users)
		first, second := f.register(f.shared(olga)), f.register(f.shared(olga))
		require.Equal(t, []string{second.ID, first.ID}, ids(f.list(mia, models.KeyFilter{})))
		require.Equal(t, []string{first.ID}, ids(f.list(mia, models.KeyFilter{Before: second.ID})))
	})
}

// firstID returns the id of the first key, or "" if there is none.
func firstID(keys []models.Key) string { return append(ids(keys), "")[0] }

func (f *fixture) serving(c models.Caller, provider string) (own, project string) {
	f.t.Helper()
	s, err := f.ServingKeys(f.t.Context(), c, provider, now())
	require.NoError(f.t, err)
	return firstID(s.Own), firstID(s.Project)
}

func TestTheKeyStoredLastServesThoughClocksStepBack(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		first := f.register(f.shared(olga))
		second := f.register(f.shared(olga, func(r *models.Registration) {
			r.Key.ID = models.KeyIDPrefix + "00000000000000000000000000" // sorts before every id of a sane clock
			r.Key.CreatedAt -= time.Hour.Microseconds()
		}))
		require.Less(t, second.ID, first.ID)
		require.Less(t, second.CreatedAt, first.CreatedAt)
		_, serves := f.serving(mia, "openai")
		require.Equal(t, second.ID, serves)

		t.Run("revoking it falls back to the one before", func(t *testing.T) {
			f.revoke(&second)
			_, serves := f.serving(mia, "openai")
			require.Equal(t, first.ID, serves)
		})
		t.Run("revoking all leaves none", func(t *testing.T) {
			f.revoke(&first)
			own, serves := f.serving(mia, "openai")
			require.Empty(t, own)
			require.Empty(t, serves)
		})
	})
}

func TestOnlyOwnAndProjectKeysOfTheProviderServe(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ios := models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "mia"}
		globex := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "mia"}
		f.addMember(ios, models.RoleOwner)
		f.addMember(globex, models.RoleOwner)
		own := f.register(f.own(mia)).ID
		project := f.register(f.shared(olga)).ID
		for _, r := range []models.Registration{f.own(moe), f.own(mia, provider("anthropic")), f.shared(olga, provider("anthropic")),
			f.own(ios), f.shared(ios), f.own(globex), f.shared(globex)} {
			f.register(r)
		}
		gotOwn, gotProject := f.serving(mia, "openai")
		require.Equal(t, own, gotOwn)
		require.Equal(t, project, gotProject)
		gotOwn, gotProject = f.serving(olga, "openai")
		require.Empty(t, gotOwn)
		require.Equal(t, project, gotProject)
	})
}

// awaitLockWaiters waits until n sessions wait for a lock in the fixture's database.
func (f *fixture) awaitLockWaiters(past *sql.DB, n int) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return query[int](f.t, past, waitingForLocks)[0] >= n }, 5*time.Second, 5*time.Millisecond)
}

// SQLite has one writer, so nothing can happen during a registration.
func TestARegisterDoesNotOutliveItsRight(t *testing.T) {
	const sameName = `INSERT INTO ai_keys (id, customer_id, project_id, user_id, provider, name, display_suffix, version, envelope, kek_id, created_at, created_by)
VALUES ('byok_x', 'acme', 'web', '', 'openai', 'same', '', 1, '', 'k', 1, 'mia')`
	endings := map[string]func(f *fixture) error{
		"removed": func(f *fixture) error { return f.removeMember("moe") },
		"demoted": func(f *fixture) error { return f.setMember("moe", models.RoleMember) },
		"API key revoked": func(f *fixture) error {
			return f.Transact(t.Context(), func(tx *models.Tx) error {
				_, err := tx.RevokeToken(acme, web, "moes", f.event(models.EventTokenRevoked))
				return err
			})
		},
	}
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{Timeout: 20 * time.Second})
			f.addMember(moe, models.RoleOwner)
			f.transact(func(tx *models.Tx) error {
				return tx.CreateToken(models.Token{ID: "moes", Hash: []byte("h"), CustomerID: acme, ProjectID: web, UserID: "moe"})
			})
			past := f.past()
			register := func() <-chan error {
				done := make(chan error, 1)
				go func() {
					_, err := f.RegisterKey(t.Context(), bearing(moe, "moes"), models.RoleOwner, f.shared(moe, named("same")), now())
					done <- err
				}()
				return done
			}

			release := f.hold(sameName) // a registration of the same name that is not committed yet
			registered := register()
			f.awaitLockWaiters(past, 1)
			ended := make(chan error, 1)
			go func() { ended <- end(f) }()
			f.awaitLockWaiters(past, 2)
			require.Empty(t, ended, "the right of a register in flight was taken away")
			release()
			require.NoError(t, <-registered)
			require.NoError(t, <-ended)
			require.Error(t, <-register())
		})
	}
}

func TestARegisterWaitsForARemovalUnderWay(t *testing.T) {
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{Timeout: 20 * time.Second})
	f.addMember(moe, models.RoleOwner)
	past := f.past()
	removal, err := f.past().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = removal.ExecContext(t.Context(), "DELETE FROM project_members WHERE user_id = 'moe'")
	require.NoError(t, err)
	registered := make(chan error, 1)
	go func() {
		_, err := f.RegisterKey(t.Context(), moe, models.RoleOwner, f.shared(moe), now())
		registered <- err
	}()
	f.awaitLockWaiters(past, 1)
	require.NoError(t, removal.Commit())
	require.ErrorIs(t, <-registered, models.ErrNotMember)
	require.Zero(t, f.count("ai_keys"))
}

func TestAFullScopeTakesNoMoreKeys(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		quota := func(n int) func(*models.Registration) { return func(r *models.Registration) { r.Quota = n } }
		refused := func(r models.Registration) {
			t.Helper()
			before := f.size()
			_, err := f.RegisterKey(t.Context(), olga, models.RoleMember, r, now())
			require.ErrorIs(t, err, models.ErrQuotaExceeded)
			require.Equal(t, before, f.size())
		}
		first := f.register(f.shared(olga, quota(2)))
		last := f.shared(olga, quota(2), retryable("k", "same"))
		f.register(last)
		refused(f.shared(olga, quota(2)))
		refused(f.shared(olga, quota(2), retryable("new", "same")))
		again := f.shared(olga, quota(2), retryable("k", "same"))
		require.Equal(t, last.Key.ID, f.register(again).ID)

		f.register(f.own(olga, quota(2)))
		f.register(f.own(mia, quota(1)))
		f.register(f.shared(olga, quota(0)))
		f.revoke(&first)
		refused(f.shared(olga, quota(2)))
		f.register(f.shared(olga, quota(3)))
	})
}

func TestKeysAreCountedAgainNearTheQuota(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const quota = 30
		for range quota {
			f.register(f.shared(olga, func(r *models.Registration) { r.Quota = quota }))
		}
		_, err := f.RegisterKey(t.Context(), olga, models.RoleMember, f.shared(olga, func(r *models.Registration) { r.Quota = quota }), now())
		require.ErrorIs(t, err, models.ErrQuotaExceeded, "however rarely they are counted while it is far")
	})
}

func TestVerdictIsStoredOfTheSecretThatWasTested(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.own(mia))
		f.transact(func(tx *models.Tx) error {
			opened, err := tx.KeyToOpen(key.ID)
			require.NoError(t, err)
			require.Equal(t, []byte("sealed "+key.ID), opened.Envelope)
			_, err = tx.KeyToOpen("byok_absent")
			require.ErrorIs(t, err, gorm.ErrRecordNotFound)
			return nil
		})
		verify := func(version uint32, verdict string, at int64) models.Key {
			tested := key
			tested.Version, tested.Verdict, tested.VerdictReason, tested.VerifiedAt = version, verdict, "of "+verdict, at
			f.transact(func(tx *models.Tx) error {
				return tx.StoreVerdict(tested, f.event(models.EventKeyVerified, about(key.ID), func(e *models.Event) {
					e.ScopeUserID, e.After = mia.UserID, &models.EventState{Verdict: verdict}
				}))
			})
			got, err := f.GetKey(t.Context(), mia, key.ID, now())
			require.NoError(t, err)
			return got
		}
		got := verify(1, "rejected", 7)
		require.Equal(t, []any{"rejected", "of rejected", int64(7)}, []any{got.Verdict, got.VerdictReason, got.VerifiedAt})
		got = verify(2, "valid", 8)
		require.Equal(t, "rejected", got.Verdict, "of another secret")
		events, err := f.ListEvents(t.Context(), mia, models.EventFilter{Type: models.EventKeyVerified}, "", 10)
		require.NoError(t, err)
		require.Equal(t, []string{"valid", "rejected"}, []string{events[0].After.Verdict, events[1].After.Verdict})
	})
}

func TestRecordOfAFetchIsPartOfItsTransaction(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		lost := errors.New("undone")
		require.ErrorIs(t, f.Transact(t.Context(), func(tx *models.Tx) error {
			require.NoError(t, tx.RecordFetch(record("undone")))
			return lost
		}), lost)
		kept := record("kept")
		f.transact(func(tx *models.Tx) error { return tx.RecordFetch(kept) })
		page, err := f.ListFetches(t.Context(), acme, web, models.FetchFilter{Limit: 10})
		require.NoError(t, err)
		require.Len(t, page, 1)
		require.Positive(t, page[0].ID)
		page[0].ID = 0
		require.Equal(t, kept, page[0])
	})
}

// openTestingStream opens a stream of a data plane that tests keys.
func (f *fixture) openTestingStream(d models.DataPlane) {
	f.openStream("of "+d.ID, d, "r", "", func(s *models.Stream) { s.TestsKeys = true })
}

func keyTest(id string) models.KeyTest {
	return models.KeyTest{ID: id, CustomerID: acme, ProjectID: web, UserID: "olga", Provider: "openai", Envelope: []byte("sealed"), WaitUntil: now() + time.Second.Microseconds()}
}

func TestKeyTestsHaveOneDataPlane(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		claim := func(d models.DataPlane, id string) (models.KeyTest, error) {
			return f.ClaimKeyTest(t.Context(), d.ID, id, now())
		}
		answer := func(d models.DataPlane, id string) error {
			return f.AnswerKeyTest(t.Context(), d.ID, id, "valid", "restricted")
		}
		all, of, other, old := f.dataPlane("all", nil), f.dataPlane("of", []string{acme}), f.dataPlane("other", []string{"globex"}), f.dataPlane("old", nil)
		f.openStream("old", old, "r", "")
		f.openTestingStream(other)
		require.ErrorIs(t, f.AddKeyTest(t.Context(), keyTest("1")), models.ErrNoDataPlane)
		f.openTestingStream(all)
		require.NoError(t, f.AddKeyTest(t.Context(), keyTest("1")))
		waiting, err := f.WaitingKeyTests(t.Context(), now())
		require.NoError(t, err)
		require.Len(t, waiting, 1)
		require.Empty(t, waiting[0].Envelope)

		for name, d := range map[string]models.DataPlane{"another customer's": other, "without tests": old, "not connected": of} {
			_, err := claim(d, "1")
			require.ErrorIs(t, err, models.ErrNotFound, name)
		}
		require.ErrorIs(t, answer(all, "1"), models.ErrNotFound, "not claimed")
		late := now() + 20*time.Second.Microseconds()
		_, err = f.ClaimKeyTest(t.Context(), all.ID, "1", late)
		require.ErrorIs(t, err, models.ErrNotFound, "nobody waits for it")
		waiting, err = f.WaitingKeyTests(t.Context(), late)
		require.NoError(t, err)
		require.Empty(t, waiting)
		got, err := claim(all, "1")
		require.NoError(t, err)
		require.Equal(t, "sealed", string(got.Envelope))
		require.Equal(t, all.ID, got.ClaimedBy)
		require.Empty(t, query[[]byte](t, models.Conn(f.Store), "SELECT envelope FROM key_tests")[0])
		f.openTestingStream(of)
		for _, d := range []models.DataPlane{all, of} {
			_, err = claim(d, "1")
			require.ErrorIs(t, err, models.ErrNotFound, "claimed")
		}
		waiting, err = f.WaitingKeyTests(t.Context(), now())
		require.NoError(t, err)
		require.Empty(t, waiting)

		require.ErrorIs(t, answer(of, "1"), models.ErrNotFound, "another's claim")
		require.NoError(t, answer(all, "1"))
		require.ErrorIs(t, answer(all, "1"), models.ErrNotFound, "twice")
		got, err = f.FindKeyTest(t.Context(), "1")
		require.NoError(t, err)
		require.Equal(t, []string{"valid", "restricted", ""}, []string{got.Verdict, got.Reason, string(got.Envelope)})
		require.NoError(t, f.DropKeyTest(t.Context(), "1"))
		_, err = f.FindKeyTest(t.Context(), "1")
		require.ErrorIs(t, err, models.ErrNotFound)

		require.NoError(t, f.AddKeyTest(t.Context(), keyTest("2")))
		_, err = f.revokeDataPlane("all")
		require.NoError(t, err)
		_, err = claim(all, "2")
		require.ErrorIs(t, err, models.ErrDataPlaneEnded)
		waiting, err = f.WaitingKeyTests(t.Context(), now()+2*time.Minute.Microseconds())
		require.NoError(t, err)
		require.Empty(t, waiting)
		require.Zero(t, f.count("key_tests"), "kept for too long")
	})
}

func TestOneOfManyClaimsAKeyTest(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		f.openTestingStream(d)
		require.NoError(t, f.AddKeyTest(t.Context(), keyTest("1")))
		var (
			group             sync.WaitGroup
			claimed, answered atomic.Int32
		)
		together := func(count *atomic.Int32, try func() error) {
			for range 8 {
				group.Go(func() {
					if err := try(); err == nil {
						count.Add(1)
					} else if !errors.Is(err, models.ErrNotFound) {
						t.Error(err)
					}
				})
			}
			group.Wait()
		}
		together(&claimed, func() error {
			got, err := f.ClaimKeyTest(t.Context(), d.ID, "1", now())
			if err == nil && string(got.Envelope) != "sealed" {
				return errors.New("claimed without the envelope")
			}
			return err
		})
		together(&answered, func() error { return f.AnswerKeyTest(t.Context(), d.ID, "1", "valid", "") })
		require.Equal(t, [2]int32{1, 1}, [2]int32{claimed.Load(), answered.Load()})
	})
}
