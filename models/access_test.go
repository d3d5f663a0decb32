package models_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// withToken returns mia's caller by an API key that is stored first.
func withToken(f *fixture, id string, expiresAt, revokedAt int64) models.Caller {
	f.t.Helper()
	f.transact(func(tx *models.Tx) error {
		return tx.CreateToken(models.Token{ID: id, Hash: []byte("hash"), CustomerID: acme, ProjectID: web, UserID: "mia",
			CreatedAt: tx.Now, ExpiresAt: expiresAt, RevokedAt: revokedAt})
	})
	c := mia
	c.TokenID = id
	return c
}

// guarded are the methods that check their caller.
func guarded(f *fixture, keyID string) map[string]func(ctx context.Context, c models.Caller) error {
	return map[string]func(ctx context.Context, c models.Caller) error{
		"Role": func(ctx context.Context, c models.Caller) error {
			_, err := f.Role(ctx, c, now())
			return err
		},
		"GetKey": func(ctx context.Context, c models.Caller) error {
			_, err := f.GetKey(ctx, c, keyID, now())
			return err
		},
		"ListKeys": func(ctx context.Context, c models.Caller) error {
			_, err := f.ListKeys(ctx, c, models.KeyFilter{}, now())
			return err
		},
		"RegisterKey": func(ctx context.Context, c models.Caller) error {
			_, err := f.RegisterKey(ctx, c, models.RoleMember, f.own(c), now())
			return err
		},
		"RegisterKey with an Idempotency-Key": func(ctx context.Context, c models.Caller) error {
			r := f.own(c)
			retryable(r.Key.ID, "same")(&r)
			_, err := f.RegisterKey(ctx, c, models.RoleMember, r, now())
			return err
		},
		"Tx.Role": func(ctx context.Context, c models.Caller) error {
			return f.Transact(ctx, func(tx *models.Tx) error {
				_, err := tx.Role(c)
				return err
			})
		},
	}
}

func TestMethodsCheckSessionAndMembership(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.addMember(models.Caller{CustomerID: "globex", ProjectID: "web", UserID: "gus"}, models.RoleOwner)
		f.addMember(models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "ida"}, models.RoleOwner)
		key := f.register(f.shared(olga))
		hour := time.Hour.Microseconds()
		unknown := mia
		unknown.TokenID = "no such token"
		strangerWithToken := withToken(f, "live-of-stranger", 0, 0)
		strangerWithToken.UserID = stranger.UserID
		cases := map[string]struct {
			caller models.Caller
			want   error
		}{
			"a member with a session token":      {mia, nil},
			"an API key that never expires":      {withToken(f, "live", 0, 0), nil},
			"an API key that has not expired":    {withToken(f, "unexpired", now()+hour, 0), nil},
			"a revoked API key":                  {withToken(f, "revoked", 0, now()), models.ErrSessionEnded},
			"an API key revoked by a fast clock": {withToken(f, "revoked-ahead", 0, now()+hour), models.ErrSessionEnded},
			"an expired API key":                 {withToken(f, "expired", now()-1, 0), models.ErrSessionEnded},
			"an API key that is not there":       {unknown, models.ErrSessionEnded},
			"a stranger":                         {stranger, models.ErrNotMember},
			"a stranger with a live API key":     {strangerWithToken, models.ErrNotMember},
			"an owner of a project of that name of another customer": {
				models.Caller{CustomerID: acme, ProjectID: web, UserID: "gus"}, models.ErrNotMember},
			"another customer's project of that name": {
				models.Caller{CustomerID: "globex", ProjectID: web, UserID: "mia"}, models.ErrNotMember},
			"an owner of another project": {
				models.Caller{CustomerID: acme, ProjectID: web, UserID: "ida"}, models.ErrNotMember},
			"a project that is not there": {
				models.Caller{CustomerID: acme, ProjectID: "nowhere", UserID: "mia"}, models.ErrNotMember},
			"nobody": {models.Caller{}, models.ErrNotMember},
		}
		for method, call := range guarded(f, key.ID) {
			for name, tc := range cases {
				t.Run(method+"/"+name, func(t *testing.T) {
					before := f.size()
					err := call(t.Context(), tc.caller)
					if tc.want == nil {
						require.NoError(t, err)
						return
					}
					require.ErrorIs(t, err, tc.want)
					require.Equal(t, before, f.size())
				})
			}
		}
	})
}

func TestAnAPIKeyEndsAtItsExpiryToTheMicrosecond(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		c := withToken(f, "brief", 1_000_000, 0)
		_, err := f.Role(t.Context(), c, 999_999)
		require.NoError(t, err)
		_, err = f.Role(t.Context(), c, 1_000_000)
		require.ErrorIs(t, err, models.ErrSessionEnded)
		token, err := f.FindToken(t.Context(), "brief")
		require.NoError(t, err)
		require.True(t, token.Live(999_999))
		require.False(t, token.Live(1_000_000), "Token.Live says the same as the statements")
	})
}

func TestMembersMayNotActAsOwners(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		requests := map[string]models.Registration{
			"plain":                   f.shared(mia),
			"with an Idempotency-Key": f.shared(mia, retryable("once", "same")),
		}
		before := f.size()
		for name, r := range requests {
			_, err := f.RegisterKey(t.Context(), mia, models.RoleOwner, r, now())
			require.ErrorIs(t, err, models.ErrForbidden, name)
			require.Equal(t, before, f.size(), name)
		}
		f.addMember(mia, models.RoleOwner)
		for name, r := range requests {
			got, err := f.RegisterKey(t.Context(), mia, models.RoleOwner, r, now())
			require.NoError(t, err, "as an owner she may, and the refusal left nothing in the way: %s", name)
			require.Equal(t, r.Key.ID, got.ID)
		}
	})
}

func TestRoleIsTheCallersOwnInThatProject(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.addMember(models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "mia"}, models.RoleOwner)
		for _, tc := range []struct {
			caller models.Caller
			want   models.Role
		}{
			{olga, models.RoleOwner}, {mia, models.RoleMember},
			{models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "mia"}, models.RoleOwner},
		} {
			role, err := f.Role(t.Context(), tc.caller, now())
			require.NoError(t, err)
			require.Equal(t, tc.want, role)
			f.transact(func(tx *models.Tx) error {
				role, err = tx.Role(tc.caller)
				return err
			})
			require.Equal(t, tc.want, role)
		}
	})
}

func TestAKeyIsThereOnlyForThoseWhoMaySeeIt(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ida := models.Caller{CustomerID: acme, ProjectID: "ios", UserID: "mia"}
		gus := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "mia"}
		f.addMember(ida, models.RoleOwner)
		f.addMember(gus, models.RoleOwner)
		shared, own := f.register(f.shared(olga)), f.register(f.own(mia))
		for _, tc := range []struct {
			name   string
			caller models.Caller
			sees   []string
		}{
			{"its user sees the project's and their own", mia, []string{own.ID, shared.ID}},
			{"another member sees the project's", moe, []string{shared.ID}},
			{"an owner sees no other's own either", olga, []string{shared.ID}},
			{"another project sees none, not even the same user", ida, []string{}},
			{"another customer sees none, not even the same user", gus, []string{}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				keys, err := f.ListKeys(t.Context(), tc.caller, models.KeyFilter{}, now())
				require.NoError(t, err)
				require.Equal(t, tc.sees, ids(keys))
				for _, k := range []models.Key{shared, own} {
					_, err := f.GetKey(t.Context(), tc.caller, k.ID, now())
					txErr := f.Transact(t.Context(), func(tx *models.Tx) error {
						_, err := tx.Key(tc.caller, k.ID)
						return err
					})
					if slices.Contains(tc.sees, k.ID) {
						require.NoError(t, err)
						require.NoError(t, txErr)
						continue
					}
					require.ErrorIs(t, err, models.ErrNotFound)
					require.ErrorIs(t, txErr, models.ErrNotFound)
				}
			})
		}
		_, absent := f.GetKey(t.Context(), moe, "byok_absent", now())
		_, others := f.GetKey(t.Context(), moe, own.ID, now())
		require.Equal(t, absent, others, "another's own key is told apart from an absent one by nothing")
	})
}

func TestARoleReadInATransactionStaysUntilItsEnd(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		read, removed := make(chan struct{}), make(chan error, 1)
		go func() {
			<-read
			removed <- f.Transact(context.WithoutCancel(t.Context()), f.removing("mia"))
		}()
		f.transact(func(tx *models.Tx) error {
			if _, err := tx.Role(mia); err != nil {
				return err
			}
			close(read)
			select {
			case err := <-removed:
				t.Errorf("mia was removed under a transaction that had read her role: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			_, err := tx.Role(mia)
			return err
		})
		require.NoError(t, <-removed)
		_, err := f.Role(t.Context(), mia, now())
		require.ErrorIs(t, err, models.ErrNotMember)
	})
}

func TestOneReadIsOneStatement(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		c := withToken(f, "live", 0, 0)
		own := f.register(f.own(mia))
		calls := guarded(f, own.ID)
		for _, method := range []string{"Role", "GetKey", "ListKeys"} {
			statements := models.CountStatements(f.Store)
			require.NoError(t, calls[method](t.Context(), c))
			require.EqualValues(t, 1, statements.Load(), method)
		}
	})
}

func TestOneHotCallIsOneRoundTripToPostgres(t *testing.T) {
	proxy := newWireProxy(t, modelstest.EnginePostgres.URL(t))
	store := modelstest.OpenStore(t, proxy.url, models.Options{MaxConns: 1})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	c := withToken(f, "live", 0, 0)
	calls := guarded(f, f.register(f.own(mia)).ID)
	for _, method := range []string{"Role", "GetKey", "ListKeys", "RegisterKey", "RegisterKey with an Idempotency-Key"} {
		require.NoError(t, calls[method](t.Context(), c), "the first call prepares the statement")
		before := proxy.roundTrips.Load()
		require.NoError(t, calls[method](t.Context(), c))
		require.EqualValues(t, 1, proxy.roundTrips.Load()-before, method)
	}
}
