package models_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

func TestAPolicyIsReadAsItWasWritten(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		read := func() models.Policy {
			p, err := f.Policy(t.Context(), mia)
			require.NoError(t, err)
			return p
		}
		require.Equal(t, models.DefaultPolicy(acme, web), read())
		for _, written := range []models.Policy{
			{CustomerID: acme, ProjectID: web, UserKeys: models.UserKeysForbid, OnBadKey: models.OnBadKeyNextKey,
				UserKeysByProvider: map[string]models.UserKeys{"openai": models.UserKeysRequire}},
			{CustomerID: acme, ProjectID: web, UserKeys: models.UserKeysAllow, OnBadKey: models.OnBadKeyFail,
				UserKeysByProvider: map[string]models.UserKeys{}},
			models.DefaultPolicy(acme, web),
		} {
			f.transact(f.setting(&written))
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

func TestTokensAreCreatedFoundListedAndRevokedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		tokens := []models.Token{
			{ID: "01A", Hash: []byte{0, 1, 0xff}, CustomerID: acme, ProjectID: web, UserID: "mia", CreatedAt: 1},
			{ID: "01B", Hash: []byte{2}, CustomerID: acme, ProjectID: web, UserID: "olga", CreatedAt: 2, ExpiresAt: 9},
			{ID: "01C", Hash: []byte{3}, CustomerID: acme, ProjectID: web, UserID: "mia", CreatedAt: 3},
			{ID: "01D", Hash: []byte{4}, CustomerID: acme, ProjectID: "ios", UserID: "mia", CreatedAt: 4},
		}
		for _, token := range tokens {
			f.transact(func(tx *models.Tx) error { return tx.CreateToken(token) })
			got, err := f.FindToken(t.Context(), token.ID)
			require.NoError(t, err)
			require.Equal(t, token, got)
		}
		list := func(user string) []models.Token {
			got, err := f.ListTokens(t.Context(), acme, web, user)
			require.NoError(t, err)
			return got
		}
		require.Equal(t, tokens[:3], list(""))
		require.Equal(t, []models.Token{tokens[0], tokens[2]}, list("mia"))
		_, err := f.FindToken(t.Context(), "01Z")
		require.ErrorIs(t, err, models.ErrNotFound)

		revoke := func(project string) (revoked models.Token, err error) {
			err = f.Transact(t.Context(), func(tx *models.Tx) (err error) {
				revoked, err = tx.RevokeToken(acme, project, "01A", f.event(models.EventTokenRevoked))
				return err
			})
			return revoked, err
		}
		_, err = revoke("ios")
		require.ErrorIs(t, err, models.ErrNotFound, "another project's")
		first, err := revoke(web)
		require.NoError(t, err)
		require.NotZero(t, first.RevokedAt)
		second, err := revoke(web)
		require.NoError(t, err)
		require.Equal(t, first, second, "the first revocation stands")
		require.Equal(t, first, list("")[0], "a revoked API key stays in the list")
	})
}

func TestATokensIDIsTakenForGood(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		token := models.Token{ID: "01A", Hash: []byte{1}, CustomerID: acme, ProjectID: web, UserID: "mia"}
		create := func() error {
			return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.CreateToken(token) })
		}
		require.NoError(t, create())
		require.ErrorIs(t, create(), models.ErrAlreadyExists)
	})
}

func TestAllWhoKeepACanaryAgreeOnTheFirst(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		_, err := f.Canary(t.Context())
		require.ErrorIs(t, err, models.ErrNotFound)
		type kept struct {
			canary models.Canary
			err    error
		}
		answers := together(16, func(i int) (k kept) {
			k.err = f.Transact(t.Context(), func(tx *models.Tx) (err error) {
				k.canary, err = tx.KeepCanary(models.Canary{Envelope: []byte{0, byte(i)}, KEKID: string(rune('a' + i))})
				return err
			})
			return k
		})
		stands, err := f.Canary(t.Context())
		require.NoError(t, err)
		require.NotZero(t, stands.CreatedAt)
		for _, a := range answers {
			require.NoError(t, a.err)
			require.Equal(t, stands, a.canary)
		}
		require.Equal(t, string(rune('a'+stands.Envelope[1])), stands.KEKID, "its fields are of one canary")
	})
}

func TestEventsArePagedNewestFirstToThoseWhoMayReadThem(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var everybodys, mias []string
		for range 4 {
			shared, own := f.shared(olga), f.own(mia)
			f.register(shared)
			f.register(own)
			f.register(f.own(moe))
			everybodys = append([]string{shared.Event.ID}, everybodys...)
			mias = append([]string{own.Event.ID, shared.Event.ID}, mias...)
		}
		f.transact(func(tx *models.Tx) error {
			return tx.AppendEvent(models.Event{CustomerID: acme, ProjectID: "ios", ID: f.ids.Next(models.EventIDPrefix, time.Now())})
		})
		for _, size := range []int{1, 3, 100} {
			require.Equal(t, mias, f.events(mia, size), "page size %d", size)
			require.Equal(t, everybodys, f.events(olga, size), "page size %d", size)
		}
		require.Empty(t, f.events(models.Caller{CustomerID: "globex", ProjectID: web, UserID: "mia"}, 3))
	})
}

// events walks all pages.
func (f *fixture) events(c models.Caller, size int) []string {
	f.t.Helper()
	var seen []string
	before := ""
	for {
		page, err := f.ListEvents(f.t.Context(), c, before, size)
		require.NoError(f.t, err)
		require.LessOrEqual(f.t, len(page), size)
		if len(page) == 0 {
			return seen
		}
		for _, e := range page {
			seen = append(seen, e.ID)
		}
		before = page[len(page)-1].ID
	}
}

func TestAnEventIsReadAsItWasWritten(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		want := models.Event{CustomerID: acme, ProjectID: web, ScopeUserID: "mia", ID: "evt_1", Type: models.EventMemberSet,
			Outcome: models.OutcomeDenied, At: 7, ActorUserID: "mia", ActorMethod: "session", ActorTokenID: "01A", KeyID: "byok_1",
			Provider: "openai", MemberID: "moe", Role: models.RoleOwner, SourceIP: "2001:db8::1", RequestID: "req"}
		f.transact(func(tx *models.Tx) error { return tx.AppendEvent(want) })
		got, err := f.ListEvents(t.Context(), mia, "", 1)
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
