package aikeys_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// patch sends a change of a key; ifMatch may be empty.
func patch(t *testing.T, s *aikeystest.Service, user, id, body, ifMatch string) aikeystest.Reply {
	r := aikeystest.Request{Method: http.MethodPatch, Path: project + "/aikeys/" + id, Token: s.As(user).Token, Body: []byte(body), Header: http.Header{}}
	if ifMatch != "" {
		r.Header.Set("If-Match", ifMatch)
	}
	return s.Send(t, r)
}

// changed changes a key as the owner, and returns the changed key. The change must succeed.
func changed(t *testing.T, s *aikeystest.Service, id, body string) gen.Key {
	reply := patch(t, s, owner, id, body, "")
	key := decode[gen.UpdateResponse](t, reply).Key
	require.Equal(t, *key.Etag, reply.Header.Get("ETag"))
	return key
}

func TestADisabledKeyCanBeEnabled(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		registered := s.As(owner).Register(t, s.Shared("n"))
		before := time.Now().Truncate(time.Microsecond)
		key := changed(t, s, registered.ID, `{"disabled":true}`)
		require.WithinRange(t, *key.DisabledAt, before, time.Now())
		require.Equal(t, &gen.DisableReceipt{State: "complete", DisabledAt: *key.DisabledAt, DisabledBy: owner}, key.DisableReceipt)
		want := registered
		want.Etag, want.Disabled, want.DisabledAt, want.DisabledBy = new(`"2"`), new(true), key.DisabledAt, new(owner)
		want.Serves, want.NotServingReason = new(false), new("disabled")
		require.Equal(t, []gen.Key{want}, list(t, s, owner), "lists come without receipts")
		want.DisableReceipt = key.DisableReceipt
		require.Equal(t, want, key)
		require.Equal(t, want, read(t, s, member, key.ID))
		require.Equal(t, want, changed(t, s, key.ID, `{"disabled":true}`), "the first time stands")

		got := resolve(t, s, member, "openai")
		require.Equal(t, []any{"key_disabled", false}, []any{got.Reason, *got.Serves})
		require.Equal(t, key.DisabledBy, got.StoppedKey.DisabledBy)
		require.Nil(t, got.RevokedKey)

		registered.Etag = new(`"3"`)
		require.Equal(t, registered, changed(t, s, key.ID, `{"disabled":false}`))
		require.Equal(t, "project_key", resolve(t, s, member, "openai").Reason)
		require.Equal(t, []line{
			{"key.registered", "allowed", owner, key.ID, "openai", "", ""}, {"key.disabled", "allowed", owner, key.ID, "openai", "", ""},
			{"key.enabled", "allowed", owner, key.ID, "openai", "", ""},
		}, lines(events(t, s, owner)))
	})
}

func TestAKeyIsExpiredFromItsTimeOn(t *testing.T) {
	var ahead atomic.Int64 // how far the service's clock is ahead
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	each(t, func(t *testing.T, s *aikeystest.Service) {
		ahead.Store(0)
		body := s.Shared("n")
		end := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Microsecond)
		body.ExpiresAt = &end
		key := s.As(owner).Register(t, body)
		require.Equal(t, &end, key.ExpiresAt)
		require.True(t, *key.Serves)
		later := changed(t, s, key.ID, `{"expires_at":"`+end.Add(time.Hour).Format(time.RFC3339Nano)+`"}`)
		require.Equal(t, end.Add(time.Hour), *later.ExpiresAt)
		change := events(t, s, owner)[0]
		require.Equal(t, []any{"key.updated", &gen.EventState{ExpiresAt: &end}, &gen.EventState{ExpiresAt: later.ExpiresAt}}, []any{change.Type, change.Before, change.After})
		require.Nil(t, changed(t, s, key.ID, `{"expires_at":null}`).ExpiresAt)
		require.Nil(t, changed(t, s, key.ID, `{"name":"m"}`).ExpiresAt, "what is not named stays")
		require.Nil(t, events(t, s, owner)[0].Before.ExpiresAt)
		require.Equal(t, &end, changed(t, s, key.ID, `{"expires_at":"`+end.Format(time.RFC3339Nano)+`"}`).ExpiresAt)
	})
	s := aikeystest.Start(t, aikeystest.Options{Now: clock})
	body := s.Shared("n")
	body.ExpiresAt = new(time.Now().Add(24 * time.Hour))
	key := s.As(owner).Register(t, body)
	ahead.Store(int64(25 * time.Hour))
	got := list(t, s, owner)[0]
	require.Equal(t, []any{false, "expired", "active"}, []any{*got.Serves, *got.NotServingReason, got.State})
	resolved := resolve(t, s, owner, "openai")
	require.Equal(t, []any{"key_expired", key.ID}, []any{resolved.Reason, resolved.StoppedKey.ID})
	require.True(t, *changed(t, s, key.ID, `{"expires_at":null}`).Serves, "an expired key serves again")
	require.Equal(t, "project_key", resolve(t, s, owner, "openai").Reason)
	require.Nil(t, list(t, s, owner)[0].StaleSince)
	ahead.Store(int64(91 * 24 * time.Hour))
	require.WithinDuration(t, key.CreatedAt.Add(90*24*time.Hour), *list(t, s, owner)[0].StaleSince, 0)
}

func TestAChangeIsMadeOnlyIfTheETagMatches(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		for i, tag := range []string{`"0"`, `"2"`, `W/"1"`, `""`, `"2", "3"`, `"1x"`} {
			reply := patch(t, s, owner, key.ID, `{"disabled":true}`, tag)
			require.Equal(t, http.StatusPreconditionFailed, reply.Status, i)
			require.Equal(t, "/problems/precondition-failed", reply.Problem(t).Type)
		}
		for i, tag := range []string{`1`, `"1`, `"1" "2"`, `*, "1"`, `"a b"`, `"` + strings.Repeat("1", 255) + `"`, `"1",`} {
			reply := patch(t, s, owner, key.ID, `{"disabled":true}`, tag)
			require.Equal(t, http.StatusBadRequest, reply.Status, "%d: %s", i, tag)
			require.Equal(t, []string{"If-Match"}, reply.Fields(t))
		}
		require.Equal(t, []gen.Key{key}, list(t, s, owner), "nothing was changed")
		for i, tag := range []string{`"1"`, `"7" , "2"`, `*`, ``} {
			require.Equal(t, http.StatusOK, patch(t, s, owner, key.ID, `{"name":"`+strings.Repeat("n", i+2)+`"}`, tag).Status, tag)
		}
		got := together(12, func(i int) int {
			return patch(t, s, owner, key.ID, `{"name":"one of many `+strconv.Itoa(i)+`"}`, `"5"`).Status
		})
		counts := map[int]int{}
		for _, status := range got {
			counts[status]++
		}
		require.Equal(t, map[int]int{http.StatusOK: 1, http.StatusPreconditionFailed: 11}, counts, "one of many who read the same")
		name := list(t, s, owner)[0].Name
		require.Equal(t, http.StatusOK, patch(t, s, owner, key.ID, `{"name":"`+name+`"}`, `"5"`).Status, "sent again after it was made")
	})
}

func TestARevokedKeyIsNeverChanged(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		changed(t, s, key.ID, `{"disabled":true}`)
		s.As(owner).RevokeKey(t, key.ID)
		revoked := read(t, s, owner, key.ID)
		require.Equal(t, "revoked", *revoked.NotServingReason)
		require.Nil(t, revoked.DisableReceipt)
		require.NotNil(t, revoked.Receipt)
		for _, body := range []string{`{"disabled":false}`, `{"name":"m"}`, `{"expires_at":null}`, `{"disabled":true}`} {
			for _, tag := range []string{"", "*", *revoked.Etag, `"0"`} {
				reply := patch(t, s, owner, key.ID, body, tag)
				require.Equal(t, http.StatusConflict, reply.Status, body+tag)
				require.Equal(t, "/problems/key-revoked", reply.Problem(t).Type)
			}
		}
		require.Equal(t, revoked, read(t, s, owner, key.ID))
	})
}

func TestWhoMayChangeAKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared, mine := s.As(owner).Register(t, s.Shared("shared")), s.As(member).Register(t, s.Own("mine"))
		for _, row := range []struct {
			user, id string
			status   int
		}{
			{owner, shared.ID, http.StatusOK}, {member, shared.ID, http.StatusForbidden}, {sam, shared.ID, http.StatusForbidden},
			{owner, mine.ID, http.StatusNotFound}, {other, mine.ID, http.StatusNotFound}, {member, mine.ID, http.StatusOK},
			{owner, exampleKey, http.StatusNotFound},
		} {
			reply := patch(t, s, row.user, row.id, `{"disabled":true}`, "")
			require.Equal(t, row.status, reply.Status, "%s %s", row.user, row.id)
		}
		require.Equal(t, line{"key.disabled", "denied", member, shared.ID, "openai", "", ""}, lines(events(t, s, owner))[2])
	})
}

func TestAChangeThatIsRefusedChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		s.As(owner).Register(t, s.Shared("taken"))
		before := list(t, s, owner)
		past := time.Now().Add(-time.Second).Format(time.RFC3339)
		for body, want := range map[string]string{
			`{}`: "body must have at least 1 member", `{"name":null}`: "name must not be null", `{"disabled":null}`: "disabled must not be null",
			`{"expires_at":"` + past + `"}`: "expires_at must be in the future", `{"expires_at":"0001-01-01T00:00:00Z"}`: "expires_at must be in the future",
			`{"expires_at":"tomorrow"}`: "expires_at must be", `{"name":"a\u200bb","disabled":true}`: "name must not begin",
			`{"name":"` + "sk-" + s.Secret() + strings.Repeat("a", 40) + `"}`: "name ", `{"state":"active"}`: "body has a member", `{"revoked_at":null}`: "body has a member",
			`{"expires_at":"9999-12-31T23:59:59-23:00"}`:    "expires_at must be before the year 10000",
			`{"disabled":true,"expires_at":"` + past + `"}`: "expires_at must be in the future",
		} {
			requireField(t, patch(t, s, owner, key.ID, body, ""), want)
		}
		reply := patch(t, s, owner, key.ID, `{"name":"taken","disabled":true}`, "")
		require.Equal(t, http.StatusConflict, reply.Status)
		require.Equal(t, []string{"name"}, reply.Fields(t))
		require.Equal(t, before, list(t, s, owner))
		require.Len(t, events(t, s, owner), 2)
		body := s.Shared("late")
		body.ExpiresAt = new(time.Now().Add(-time.Second))
		requireField(t, post(t, s, owner, project+"/aikeys", body), "expires_at must be in the future")
		body.ExpiresAt = new(time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -3600)))
		requireField(t, post(t, s, owner, project+"/aikeys", body), "expires_at must be before the year 10000")
	})
}

func TestARepeatWithAnotherExpiryIsAReuse(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	body := s.Shared("n")
	body.ExpiresAt = new(time.Now().Add(time.Hour))
	require.Equal(t, http.StatusCreated, retry(t, s, s.As(owner).Token, "again", body).Status)
	require.Equal(t, http.StatusCreated, retry(t, s, s.As(owner).Token, "again", body).Status)
	body.ExpiresAt = new(time.Now().Add(2 * time.Hour))
	require.Equal(t, http.StatusUnprocessableEntity, retry(t, s, s.As(owner).Token, "again", body).Status)
	body.ExpiresAt = nil
	require.Equal(t, http.StatusUnprocessableEntity, retry(t, s, s.As(owner).Token, "again", body).Status)
}
