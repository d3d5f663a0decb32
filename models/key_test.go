package models_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func TestRegisterStoresKeyEventAndIdempotency(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		r := f.own(mia, provider("anthropic"), retryable("once", "same"))
		r.Event.ActorMethod, r.Event.ActorTokenID, r.Event.SourceIP, r.Event.RequestID = "api_key", "token", "192.0.2.1", "req-1"
		got, err := f.RegisterKey(t.Context(), mia, models.RoleMember, r, now())
		require.NoError(t, err)
		require.Equal(t, r.Key, got)
		require.Equal(t, size{keys: 1, events: 1, idempotency: 1}, f.size())
		events, err := f.ListEvents(t.Context(), mia, "", 10)
		require.NoError(t, err)
		require.Equal(t, []models.Event{r.Event}, events)

		f.register(f.shared(olga))
		require.Equal(t, size{keys: 2, events: 2, idempotency: 1}, f.size(), "no record without an Idempotency-Key")
	})
}

// Each of the three inserts fails in its turn, by a value that is taken.
func TestRegisterWritesAllOrNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		taken := f.register(f.shared(olga, named("prod"))).ID
		events, err := f.ListEvents(t.Context(), olga, "", 1)
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
			f.revoke(first)
			second := f.register(f.shared(olga, named("prod")))
			refused(t)
			f.revoke(second)
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

type answer struct {
	key models.Key
	err error
}

// registerTogether sends the registrations at once.
func (f *fixture) registerTogether(requests []models.Registration) []answer {
	ctx := f.t.Context()
	return together(len(requests), func(i int) answer {
		k, err := f.RegisterKey(ctx, olga, models.RoleOwner, requests[i], now())
		return answer{k, err}
	})
}

func TestOneIdempotencyKeyInParallelMakesOneKeyThatAllGet(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		requests := make([]models.Registration, 32)
		for i := range requests {
			requests[i] = f.shared(olga, named("prod"), retryable("once", "same"))
		}
		answers := f.registerTogether(requests)
		for _, a := range answers {
			require.NoError(t, a.err)
			require.Equal(t, answers[0].key.ID, a.key.ID)
			require.Equal(t, answers[0].key.CreatedAt, a.key.CreatedAt)
			require.Equal(t, uint32(1), a.key.Version)
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
		answers := f.registerTogether(requests)
		served := map[string]int{}
		for i, a := range answers {
			if a.err != nil {
				require.ErrorIs(t, a.err, models.ErrIdempotencyReuse)
				continue
			}
			require.Equal(t, requests[i].Key.Name, a.key.Name)
			served[a.key.ID]++
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
		f.revoke(first)
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
