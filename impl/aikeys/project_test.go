package aikeys_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestAccessToProjectResources(t *testing.T) {
	type cells struct{ stranger, member, owner int }
	everyMember := cells{http.StatusForbidden, http.StatusOK, http.StatusOK}
	owners := cells{http.StatusForbidden, http.StatusForbidden, http.StatusOK}
	anySession := cells{http.StatusOK, http.StatusOK, http.StatusOK}
	table := []struct {
		method, path string
		body         any
		want         cells
	}{
		{http.MethodGet, project + "/policy", nil, everyMember},
		{http.MethodPut, project + "/policy", map[string]any{"on_bad_key": "fail"}, owners},
		{http.MethodGet, project + "/events", nil, everyMember},
		{http.MethodGet, project + "/usage", nil, everyMember},
		{http.MethodGet, project + "/usage?user_id=" + member, nil, everyMember},
		{http.MethodGet, project + "/usage?user_id=new", nil, owners},
		{http.MethodGet, project + "/fetches", nil, owners},
		{http.MethodGet, project + "/members", nil, everyMember},
		{http.MethodPut, project + "/members/new", map[string]any{"role": "member"}, owners},
		{http.MethodDelete, project + "/members/new", nil, owners},
		{http.MethodGet, project + "/resolve?provider=openai", nil, everyMember},
		{http.MethodGet, "/v1/providers", nil, anySession},
		{http.MethodGet, "/v1/whoami", nil, anySession},
	}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, row := range table {
			s.SetMember(aikeystest.Customer, aikeystest.Project, "new", "member") // an owner may remove them
			for user, want := range map[string]int{sam: row.want.stranger, member: row.want.member, owner: row.want.owner} {
				t.Run(row.method+" "+row.path+" as "+user, func(t *testing.T) {
					require.Equal(t, want, ask(t, s, user, row.method, row.path, row.body).Status)
				})
			}
		}
	})
}

func TestBadPolicy(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	many := map[string]any{}
	for i := range 65 {
		many[strings.Repeat("p", i+1)] = "allow"
	}
	for name, exceptions := range map[string]map[string]any{
		"an unknown choice":            {"openai": secret},
		"a choice that is an object":   {"openai": map[string]any{secret: secret}},
		"a choice that is null":        {"openai": nil},
		"a provider that is unknown":   {secret: "allow"},
		"an unknown one with no sense": {secret: secret},
		"too many":                     many,
	} {
		t.Run(name, func(t *testing.T) {
			reply := put(t, s, owner, project+"/policy", map[string]any{"user_keys_by_provider": exceptions})
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"user_keys_by_provider"}, reply.Fields(t))
		})
	}
}

func TestDeniedWriteIsRecordedOfALeavingMember(t *testing.T) {
	t.Parallel()
	s, lock, awaitWaiting := newLockable(t, models.Options{Timeout: 20 * time.Second})
	for name, tc := range map[string]struct {
		method, path string
		body         any
	}{
		"set policy":    {http.MethodPut, "/policy", map[string]any{"user_keys": "allow"}},
		"set member":    {http.MethodPut, "/members/x", map[string]any{"role": "owner"}},
		"remove member": {http.MethodDelete, "/members/" + owner, []byte{}},
	} {
		t.Run(name, func(t *testing.T) {
			before := denied(t, s)
			release := lock("events")
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			req := request(ctx, t, s, member, tc.method, project+tc.path, tc.body)
			status := make(chan int, 1)
			go func() {
				reply, _ := s.Serve(req)
				status <- reply.Status
			}()
			awaitWaiting("events")
			leave()
			require.Never(t, func() bool { return len(status) > 0 }, 50*time.Millisecond, 10*time.Millisecond, "its record is waited for")
			release()
			require.Equal(t, http.StatusForbidden, <-status)
			require.Equal(t, before+1, denied(t, s))
		})
	}
}

// sentConn calls sent after each write to the connection. httptrace's WroteRequest comes too early: it comes before the
// request is flushed, and a client that disconnects at that moment may have sent nothing.
type sentConn struct {
	net.Conn
	sent func()
}

func (c *sentConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent()
	return n, err
}

// The audit trail and the log hold the same refusals, no matter when the client disconnects.
func TestDeniedWriteOfADisconnectedClient(t *testing.T) {
	const clients = 50
	each(t, func(t *testing.T, s *aikeystest.Service) {
		require.Empty(t, list(t, s, member)) // now the session is cached, and a connection is open
		for i := range clients {
			ctx, leave := context.WithCancel(t.Context())
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &sentConn{Conn: conn, sent: func() { time.AfterFunc(time.Duration(i)*40*time.Microsecond, leave) }}, nil
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
			resp, err := client.Do(request(ctx, t, s, member, http.MethodPut, project+"/policy", map[string]any{}))
			if err == nil {
				require.NoError(t, resp.Body.Close())
			}
			leave()
		}
		require.Eventually(t, func() bool { return len(ends(s, "setPolicy")) == clients }, 10*time.Second, 5*time.Millisecond)
		refused := 0
		for _, end := range ends(s, "setPolicy") {
			require.Equal(t, "INFO", end.Level, "status %d", end.Status)
			if end.Status == http.StatusForbidden {
				refused++
			}
		}
		require.Equal(t, refused, denied(t, s))
	})
}

func TestDeniedWriteThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	s, lock, _ := newLockable(t, models.Options{Timeout: time.Second})
	lock("events")
	reply := put(t, s, member, project+"/policy", map[string]any{})
	require.Equal(t, http.StatusForbidden, reply.Status)
	line := s.LogLine(t, reply)
	require.Equal(t, "ERROR", line["level"])
	require.Contains(t, line["error"], "refusal not recorded in the audit trail")
}

// line is an event without its ids and times.
type line struct{ kind, outcome, actor, key, provider, member, role string }

func lines(found []gen.Event) (out []line) {
	for _, e := range slices.Backward(found) {
		out = append(out, line{e.Type, e.Outcome, e.Actor.UserID, text(e.KeyID), text(e.Provider), text(e.MemberID), text(e.Role)})
	}
	return out
}

// text returns the value of an optional member.
func text[T ~string](s *T) string {
	if s == nil {
		return ""
	}
	return string(*s)
}

func TestEventsOfWrites(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared := s.As(owner).Register(t, s.Shared("shared"))
		mine := s.As(member).Register(t, s.Own("mine"))
		theirs := s.As(other).Register(t, s.Own("theirs"))
		setPolicy(t, s, map[string]any{"user_keys": "allow"})
		require.Equal(t, http.StatusOK, put(t, s, owner, project+"/members/new", map[string]any{"role": "member"}).Status)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/new").Status)
		// First writes that a member may not make, then writes that fail for other reasons.
		require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Shared("denied")).Status)
		require.Equal(t, http.StatusForbidden, del(t, s, member, project+"/aikeys/"+shared.ID).Status)
		require.Equal(t, http.StatusForbidden, put(t, s, member, project+"/policy", map[string]any{"user_keys": "allow"}).Status)
		require.Equal(t, http.StatusForbidden, put(t, s, member, project+"/members/x", map[string]any{"role": "owner"}).Status)
		require.Equal(t, http.StatusForbidden, del(t, s, member, project+"/members/"+owner).Status)
		require.Equal(t, http.StatusConflict, post(t, s, owner, project+"/aikeys", s.Shared("shared")).Status)
		require.Equal(t, http.StatusConflict, del(t, s, owner, project+"/members/"+owner).Status)
		require.Equal(t, http.StatusNotFound, del(t, s, owner, project+"/members/nobody").Status)
		require.Equal(t, http.StatusNotFound, del(t, s, owner, project+"/aikeys/"+theirs.ID).Status)
		require.Equal(t, http.StatusForbidden, post(t, s, sam, project+"/aikeys", s.Shared("strange")).Status)
		s.As(member).RevokeKey(t, mine.ID)
		s.As(owner).RevokeKey(t, shared.ID)
		s.As(owner).RevokeKey(t, shared.ID)

		registered := line{"key.registered", "allowed", owner, shared.ID, "openai", "", ""}
		projects := []line{
			{"policy.set", "allowed", owner, "", "", "", ""},
			{"member.set", "allowed", owner, "", "", "new", "member"},
			{"member.removed", "allowed", owner, "", "", "new", ""},
			{"key.registered", "denied", member, "", "openai", "", ""},
			{"key.revoked", "denied", member, shared.ID, "openai", "", ""},
			{"policy.set", "denied", member, "", "", "", ""},
			{"member.set", "denied", member, "", "", "x", "owner"},
			{"member.removed", "denied", member, "", "", owner, ""},
		}
		revoked := line{"key.revoked", "allowed", owner, shared.ID, "openai", "", ""}
		t.Run("the owner sees the project's and none of members' own keys", func(t *testing.T) {
			require.Equal(t, slices.Concat([]line{registered}, projects, []line{revoked}), lines(events(t, s, owner)))
		})
		t.Run("a member sees their own too", func(t *testing.T) {
			want := slices.Concat([]line{registered, {"key.registered", "allowed", member, mine.ID, "openai", "", ""}}, projects,
				[]line{{"key.revoked", "allowed", member, mine.ID, "openai", "", ""}, revoked})
			require.Equal(t, want, lines(events(t, s, member)))
		})
		t.Run("and so does the other member", func(t *testing.T) {
			got := lines(events(t, s, other))
			require.Contains(t, got, line{"key.registered", "allowed", other, theirs.ID, "openai", "", ""})
			require.Len(t, got, len(projects)+3)
		})
	})
}

func TestEventFields(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		before := time.Now().Truncate(time.Microsecond)
		reply := post(t, s, member, project+"/aikeys", s.Own("n"))
		key := decode[gen.RegisterResponse](t, reply).Key
		got := events(t, s, member)
		require.Len(t, got, 1)
		require.Regexp(t, `^evt_[0-7][0-9A-HJKMNP-TV-Z]{25}$`, got[0].ID)
		require.WithinRange(t, got[0].At, before, time.Now())
		token := s.As(member).TokenID
		require.Equal(t, gen.Event{
			ID: got[0].ID, Type: "key.registered", Outcome: "allowed", At: got[0].At, KeyID: &key.ID, Provider: &key.Provider,
			Actor: gen.Actor{UserID: member, Method: "api_key", TokenID: &token}, SourceIP: "127.0.0.1", RequestID: reply.Header.Get("X-Request-Id"),
		}, got[0])
	})
}

func TestMembersSeeNoAddressesOfOthers(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		s.As(owner).Register(t, s.Shared("shared"))
		require.Equal(t, 403, post(t, s, member, project+"/aikeys", s.Shared("denied")).Status)
		addresses := func(user string) (found []string) {
			for _, e := range events(t, s, user) {
				found = append(found, e.Actor.UserID+" "+e.SourceIP)
			}
			return found
		}
		require.Equal(t, []string{member + " 127.0.0.1", owner + " 127.0.0.1"}, addresses(owner))
		require.Equal(t, []string{member + " 127.0.0.1", owner + " "}, addresses(member))
		require.Equal(t, []string{member + " ", owner + " "}, addresses(other))
	})
}

// The events of operators' commands have no user, address or request.
func TestEventsOfOperators(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for i, kind := range []models.EventType{models.EventTokenCreated, models.EventTokenRevoked, models.EventMemberSet, models.EventMemberRemoved} {
			require.NoError(t, s.Store.Transact(t.Context(), func(tx *models.Tx) error {
				return tx.AppendEvent(models.Event{
					CustomerID: "acme", ProjectID: "web", ID: "evt_01JD8Q6Z3X0B4D6F8H9J1K3M5" + string(rune('A'+i)), Type: kind,
					Outcome: models.OutcomeAllowed, At: time.Now().UnixMicro(), ActorMethod: "admin", MemberID: member, Role: models.RoleMember,
				})
			}))
		}
		require.Equal(t, []line{
			{"token.created", "allowed", "", "", "", member, "member"}, {"token.revoked", "allowed", "", "", "", member, "member"},
			{"member.set", "allowed", "", "", "", member, "member"}, {"member.removed", "allowed", "", "", "", member, "member"},
		}, lines(events(t, s, member)))
	})
}

func TestListEvents(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		require.JSONEq(t, `{"events":[]}`, string(get(t, s, owner, project+"/events").Body))
		for i := range 30 {
			name := string(rune('A' + i))
			s.As(owner).Register(t, s.Shared(name))
			s.As(member).Register(t, s.Own(name))
			s.As(other).Register(t, s.Own(name))
		}
		var want []string
		all := events(t, s, member)
		for _, e := range all {
			want = append(want, e.ID)
		}
		require.Len(t, want, 60)
		require.True(t, slices.IsSortedFunc(want, func(a, b string) int { return strings.Compare(b, a) }))
		require.True(t, slices.IsSortedFunc(all, func(a, b gen.Event) int { return b.At.Compare(a.At) }))
		for _, size := range []int{7, 59, 60, 61} {
			require.Equal(t, want, slices.Concat(pages(t, s, member, project+"/events?", size)...))
		}
		first := decode[gen.ListEventsResponse](t, get(t, s, member, project+"/events"))
		require.Len(t, first.Events, 50, "the default")
		require.NotNil(t, first.NextPageToken)
		rest := decode[gen.ListEventsResponse](t, get(t, s, member, project+"/events?page_token="+*first.NextPageToken))
		require.Len(t, rest.Events, 10)
		require.Nil(t, rest.NextPageToken)
	})
}

func TestListEventsByFilter(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("one"))
		s.As(owner).Register(t, s.Shared("two"))
		s.As(member).Register(t, s.Own("mine"))
		require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Shared("three")).Status)
		s.As(owner).RevokeKey(t, key.ID)
		setPolicy(t, s, map[string]any{})
		all := events(t, s, member)
		require.Len(t, all, 6)
		for query, want := range map[string]int{
			"key_id=" + key.ID: 2, "key_id=" + strings.TrimPrefix(key.ID, "byok_"): 2, "actor=" + owner: 4, "type=key.registered": 4,
			"outcome=denied": 1, "outcome=allowed&type=policy.set": 1, "provider=openai": 5, "provider=groq": 0, "type=member.set": 0,
			"from=" + url.QueryEscape(key.CreatedAt.Format(time.RFC3339Nano)): 6, "from=2999-01-01T00:00:00Z": 0, "to=2000-01-01T00:00:00Z": 0,
			"to=1969-01-01T00:00:00Z": 0, "from=1969-01-01T00:00:00Z": 6,
			"to=" + url.QueryEscape(time.Now().Add(time.Minute).Format(time.RFC3339Nano)): 6,
		} {
			got := decode[gen.ListEventsResponse](t, get(t, s, member, project+"/events?"+query))
			require.Len(t, got.Events, want, query)
		}
		seen := slices.Concat(pages(t, s, member, project+"/events?actor="+owner+"&", 1)...)
		require.Len(t, seen, 4)
	})
}

func TestListsRefuseFiltersThatSelectNothing(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	const aTime = "must be a time, such as 2026-11-23T09:00:00Z"
	for _, list := range []string{"/events", "/usage", "/fetches"} {
		for query, want := range map[string]string{
			"from=yesterday":  "from " + aTime,
			"to=2026-11-23":   "to " + aTime,
			"key_id=x":        "key_id must be byok_ and a ULID of 26 upper-case characters, or the bare ULID",
			"provider=opnai":  "provider is not a provider that we know; known are openai, ",
			"provider=":       "provider must not be empty",
			"page_size=501.5": "page_size must be a whole number",
			"from=2026-11-23T09:00:01Z&to=2026-11-23T09:00:00Z": "from must not be after to",
		} {
			requireField(t, get(t, s, owner, project+list+"?"+query), want)
		}
	}
	types := "must be one of key.registered, key.revoked, key.updated, key.disabled, key.enabled, key.expiring, key.expired, key.verified, key.failing, key.exposed, key.rotated, key.rotation_rolled_back, key.version_added, key.version_destroyed, policy.set, member.set, member.removed, token.created, token.revoked, provider.created, provider.deleted"
	requireField(t, get(t, s, owner, project+"/events?type=key.revokd"), "type "+types)
	requireField(t, get(t, s, owner, project+"/events?outcome=maybe"), "outcome must be one of allowed, denied")
	requireField(t, get(t, s, owner, project+"/events?actor="), "actor must not be empty")
	requireField(t, get(t, s, owner, project+"/fetches?decision=maybe"), "decision must be one of allowed, denied")
	requireField(t, get(t, s, owner, project+"/fetches?data_plane=a/b"), "data_plane must be 1 to 64 characters")
}

// requireField requires a refusal of one field. want is its name and the beginning of its message.
func requireField(t *testing.T, reply aikeystest.Reply, want string) {
	require.Equal(t, http.StatusBadRequest, reply.Status, want)
	fields := reply.Problem(t).Errors
	require.Len(t, fields, 1, want)
	got := fields[0]
	require.True(t, strings.HasPrefix(got.Field+" "+got.Message, want), "%s %s", got.Field, got.Message)
}

func TestRefusalsSayWhatTakesAnOwner(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	shared := s.As(owner).Register(t, s.Shared("shared"))
	for _, row := range []struct {
		method, path string
		body         any
		want         string
	}{
		{http.MethodPost, "/aikeys", s.Shared("denied"), "may register a project-level key"},
		{http.MethodDelete, "/aikeys/" + shared.ID, nil, "may revoke a project-level key"},
		{http.MethodPut, "/policy", map[string]any{}, "may change its policy"},
		{http.MethodPut, "/members/x", map[string]any{"role": "member"}, "may add members"},
		{http.MethodDelete, "/members/" + owner, nil, "may remove members"},
		{http.MethodGet, "/usage?user_id=" + owner, nil, "may read the usage"},
		{http.MethodGet, "/fetches", nil, "may read its records of fetches"},
	} {
		reply := ask(t, s, member, row.method, project+row.path, row.body)
		require.Equal(t, http.StatusForbidden, reply.Status, row.path)
		require.Contains(t, reply.Problem(t).Detail, "Only an owner of the project "+row.want)
	}
}

func TestEventsSayWhatAChangeChanged(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		last := func() gen.Event { return events(t, s, owner)[0] }
		setPolicy(t, s, map[string]any{"user_keys": "forbid", "user_keys_by_provider": map[string]any{"groq": "allow"}, "on_limited": "next_key", "operations": "all", "removal_grace_days": 0})
		first := last()
		none := gen.UserKeysByProvider{}
		require.Equal(t, &gen.EventState{UserKeys: new(gen.UserKeys("allow")), UserKeysByProvider: &none, OnBadKey: new(gen.OnBadKey("fail")), OnLimited: new(gen.OnLimitedFail), Operations: new(gen.OperationsInference)}, first.Before)
		require.Equal(t, &gen.EventState{UserKeys: new(gen.UserKeys("forbid")), UserKeysByProvider: &gen.UserKeysByProvider{"groq": "allow"}, OnBadKey: new(gen.OnBadKey("fail")), OnLimited: new(gen.OnLimitedNextKey), Operations: new(gen.OperationsAll), RemovalGraceDays: new(0)}, first.After)
		setPolicy(t, s, map[string]any{})
		require.Equal(t, first.After, last().Before)
		require.Equal(t, first.Before, last().After)

		role := func(r gen.Role) *gen.EventState { return &gen.EventState{Role: &r} }
		put(t, s, owner, project+"/members/new", map[string]any{"role": "member"})
		require.Nil(t, last().Before)
		require.Equal(t, role("member"), last().After)
		put(t, s, owner, project+"/members/new", map[string]any{"role": "owner"})
		require.Equal(t, role("member"), last().Before)
		require.Equal(t, role("owner"), last().After)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/new").Status)
		require.Equal(t, role("owner"), last().Before)
		require.Nil(t, last().After)
		require.Equal(t, http.StatusForbidden, put(t, s, member, project+"/members/new", map[string]any{"role": "owner"}).Status)
		require.Nil(t, last().Before)
		require.Nil(t, last().After, "nothing changed")
	})
}

func TestListMembers(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, id := range []string{"Zoe", "a.b", "a-b", "a_b", "0", "zed"} {
			require.Equal(t, http.StatusOK, put(t, s, owner, project+"/members/"+id, map[string]any{"role": "member"}).Status)
		}
		want := []string{"0", "Zoe", "a-b", "a.b", "a_b", member, other, owner, "zed"}
		requirePaged(t, s, member, project+"/members?", want, 1000)
		got := decode[gen.ListMembersResponse](t, get(t, s, member, project+"/members"))
		require.Nil(t, got.NextPageToken)
		require.Len(t, got.Members, len(want))
	})
}

func TestSetMemberKeepsCreatedAt(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		set := func(role string) gen.Member {
			reply := put(t, s, owner, project+"/members/new", map[string]any{"role": role})
			require.Equal(t, http.StatusOK, reply.Status)
			return decode[gen.MemberResponse](t, reply).Member
		}
		first := set("member")
		require.Equal(t, first.CreatedAt, first.UpdatedAt)
		time.Sleep(time.Millisecond)
		second := set("owner")
		require.Equal(t, first.CreatedAt, second.CreatedAt)
		require.True(t, second.UpdatedAt.After(first.UpdatedAt))
		require.Equal(t, gen.Role("owner"), second.Role)
		all := decode[gen.ListMembersResponse](t, get(t, s, member, project+"/members")).Members
		require.Contains(t, all, second)
	})
}

func TestWhoAmI(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		roleOwner, roleMember := gen.Role("owner"), gen.Role("member")
		for name, tc := range map[string]struct {
			session *aikeystest.Session
			want    gen.WhoAmIResponse
		}{
			"an owner":            {s.As(owner), gen.WhoAmIResponse{CustomerID: "acme", ProjectID: "web", UserID: owner, Role: &roleOwner}},
			"a member":            {s.As(member), gen.WhoAmIResponse{CustomerID: "acme", ProjectID: "web", UserID: member, Role: &roleMember}},
			"no member":           {s.As(sam), gen.WhoAmIResponse{CustomerID: "acme", ProjectID: "web", UserID: sam}},
			"of another customer": {s.Session("globex", "web", owner), gen.WhoAmIResponse{CustomerID: "globex", ProjectID: "web", UserID: owner, Role: &roleOwner}},
			"of no project":       {s.Session("acme", "nowhere", owner), gen.WhoAmIResponse{CustomerID: "acme", ProjectID: "nowhere", UserID: owner}},
		} {
			t.Run(name, func(t *testing.T) {
				reply, err := tc.session.WhoAmIWithResponse(t.Context())
				require.NoError(t, err)
				tc.want.Method, tc.want.TokenID = "api_key", &tc.session.TokenID
				require.Equal(t, &tc.want, reply.JSON200)
			})
		}
	})
}

func TestListProviders(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	catalogue, err := providers.Load()
	require.NoError(t, err)
	reply, err := s.As(sam).ListProvidersWithResponse(t.Context())
	require.NoError(t, err)
	require.Len(t, reply.JSON200.Providers, len(catalogue.All()))
	for i, p := range catalogue.All() {
		var externalID *string
		if p.Slug == "bedrock" {
			externalID = new("aikeys:" + aikeystest.Customer)
		}
		require.Equal(t, gen.Provider{
			Slug: p.Slug, DisplayName: p.DisplayName, BaseURL: p.BaseURL, AuthStyle: string(p.AuthStyle), SecretFormat: string(p.SecretFormat),
			Prefixes: p.KnownPrefixes(), RequiredFields: p.RequiredFields(), AlternativeFields: p.Alternatives, KeyPageURL: p.KeyPage,
			EndpointHosts: p.CloudHosts(), ExternalID: externalID,
		}, reply.JSON200.Providers[i])
	}
}

func TestMembershipChangesApplyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared := s.As(owner).Register(t, s.Shared("shared"))
		own := s.As(member).Register(t, s.Own("own"))
		setRole := func(user, role string) {
			reply := put(t, s, owner, project+"/members/"+user, map[string]any{"role": role})
			require.Equal(t, http.StatusOK, reply.Status)
			require.Equal(t, gen.Role(role), decode[gen.MemberResponse](t, reply).Member.Role)
		}
		t.Run("a member who becomes an owner may write", func(t *testing.T) {
			require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Shared("m")).Status)
			setRole(member, "owner")
			require.Equal(t, http.StatusCreated, post(t, s, member, project+"/aikeys", s.Shared("m")).Status)
		})
		t.Run("and no more once they are a member again", func(t *testing.T) {
			setRole(member, "member")
			require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Shared("n")).Status)
			require.Equal(t, http.StatusForbidden, del(t, s, member, project+"/aikeys/"+shared.ID).Status)
			require.Equal(t, http.StatusForbidden, put(t, s, member, project+"/policy", map[string]any{}).Status)
		})
		t.Run("a removed member has lost the project, their own keys too", func(t *testing.T) {
			require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/"+member).Status)
			for _, path := range []string{"/aikeys", "/aikeys/" + own.ID, "/aikeys/" + shared.ID, "/policy", "/events", "/members",
				"/resolve?provider=openai"} {
				require.Equal(t, http.StatusForbidden, get(t, s, member, project+path).Status, path)
			}
			require.Equal(t, http.StatusForbidden, del(t, s, member, project+"/aikeys/"+own.ID).Status)
			require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Own("late")).Status)
		})
		t.Run("removing them again finds nobody", func(t *testing.T) {
			require.Equal(t, http.StatusNotFound, del(t, s, owner, project+"/members/"+member).Status)
		})
		t.Run("back again, they have what they had once the removal is undone", func(t *testing.T) {
			setRole(member, "member")
			require.Equal(t, http.StatusForbidden, get(t, s, member, project+"/aikeys/"+own.ID).Status)
			require.Equal(t, http.StatusOK, post(t, s, owner, project+"/members/"+member+"/restore", nil).Status)
			require.Equal(t, http.StatusOK, get(t, s, member, project+"/aikeys/"+own.ID).Status)
		})
	})
}

func TestLastOwner(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		refused := func(reply aikeystest.Reply) {
			require.Equal(t, http.StatusConflict, reply.Status)
			require.Equal(t, "failed_precondition", reply.Problem(t).Code)
		}
		refused(put(t, s, owner, project+"/members/"+owner, map[string]any{"role": "member"}))
		refused(del(t, s, owner, project+"/members/"+owner))
		require.Equal(t, http.StatusOK, put(t, s, owner, project+"/members/"+member, map[string]any{"role": "owner"}).Status)

		// Both owners leave at once: one of them stays.
		statuses := together(2, func(i int) int {
			user := []string{owner, member}[i]
			return del(t, s, user, project+"/members/"+user).Status
		})
		require.ElementsMatch(t, []int{http.StatusOK, http.StatusConflict}, statuses)
	})
}

// Every policy with every set of keys: which key serves, and why.
func TestResolveKey(t *testing.T) {
	table := map[string]map[string]string{ // :: policy → existing keys → reason
		"allow":   {"none": "no_key", "project": "project_key", "own": "user_key", "both": "user_key"},
		"require": {"none": "user_key_required", "project": "user_key_required", "own": "user_key", "both": "user_key"},
		"forbid":  {"none": "no_key", "project": "user_keys_forbidden", "own": "no_key", "both": "user_keys_forbidden"},
	}
	scopes := map[string]string{"user_key": "user", "project_key": "project", "user_keys_forbidden": "project"}
	// Each set of keys has a provider of its own.
	const none, projects, own, both = "openai", "deepseek", "mistral", "cohere"
	providers := map[string]string{"none": none, "project": projects, "own": own, "both": both}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		of := func(provider string) func(*gen.RegisterRequest) {
			return func(b *gen.RegisterRequest) { b.Provider = provider }
		}
		serving := map[string]gen.Key{
			projects + " project": s.As(owner).Register(t, s.Shared("p", of(projects))),
			both + " project":     s.As(owner).Register(t, s.Shared("p", of(both))),
			own + " user":         s.As(member).Register(t, s.Own("u", of(own))),
			both + " user":        s.As(member).Register(t, s.Own("u", of(both))),
		}
		for _, provider := range providers { // these keys serve only their users
			s.As(other).Register(t, s.Own("theirs", of(provider)))
			s.As(owner).Register(t, s.Own("the owner's", of(provider)))
		}
		for policy, row := range table {
			for name, body := range map[string]map[string]any{
				"for all":      {"user_keys": policy},
				"by exception": {"user_keys": "allow", "user_keys_by_provider": map[string]any{none: policy, projects: policy, own: policy, both: policy}},
			} {
				setPolicy(t, s, body)
				for presence, reason := range row {
					t.Run(policy+" "+name+", keys: "+presence, func(t *testing.T) {
						provider := providers[presence]
						want := gen.ResolveResponse{Provider: provider, Serves: new(scopes[reason] != ""), Reason: reason, UserKeys: gen.UserKeys(policy), OnBadKey: "fail", OnLimited: new(gen.OnLimitedFail)}
						if scope := scopes[reason]; scope != "" {
							key := serving[provider+" "+scope]
							want.Scope, want.Key = &scope, &key
						}
						require.Equal(t, want, resolve(t, s, member, provider))
					})
				}
			}
		}
	})
}

func TestResolveKeyNewestServes(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		first := s.As(owner).Register(t, s.Shared("first"))
		second := s.As(owner).Register(t, s.Shared("second"))
		require.Equal(t, second.ID, resolve(t, s, member, "openai").Key.ID, "registering a second key rotates")
		s.As(owner).RevokeKey(t, second.ID)
		require.Equal(t, first.ID, resolve(t, s, member, "openai").Key.ID, "revoking it falls back")
		s.As(owner).RevokeKey(t, first.ID)
		revoked := resolve(t, s, member, "openai")
		require.Equal(t, "key_revoked", revoked.Reason)
		require.Equal(t, first.ID, revoked.RevokedKey.ID, "the key revoked last, not the newest key")
		require.Equal(t, owner, *revoked.RevokedKey.RevokedBy)
		require.Nil(t, revoked.Key)
		require.Equal(t, "no_key", resolve(t, s, member, "groq").Reason)
		third := s.As(owner).Register(t, s.Shared("third"))
		require.Equal(t, third.ID, resolve(t, s, member, "openai").Key.ID)
	})
}

// The newest key is the last one registered. The clock does not count: it may be set back.
func TestResolveKeyAfterTheClockWasSetBack(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		var offset atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
		s := aikeystest.Start(t, aikeystest.Options{Store: modelstest.NewStore(t, e), Now: now})
		older := s.As(owner).Register(t, s.Shared("older"))
		offset.Store(int64(-time.Hour))
		newer := s.As(owner).Register(t, s.Shared("newer"))
		require.True(t, newer.CreatedAt.Before(older.CreatedAt))
		require.Equal(t, newer.ID, resolve(t, s, member, "openai").Key.ID)
		require.ElementsMatch(t, []string{older.ID, newer.ID}, ids(list(t, s, owner)))
		s.As(owner).RevokeKey(t, newer.ID)
		require.Equal(t, older.ID, resolve(t, s, member, "openai").Key.ID)
	})
}

func TestSetPolicy(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		read := func(user string) gen.Policy {
			return decode[gen.PolicyResponse](t, get(t, s, user, project+"/policy")).Policy
		}
		none := gen.UserKeysByProvider{}
		t.Run("the default, before one is written", func(t *testing.T) {
			require.Equal(t, gen.Policy{UserKeys: "allow", UserKeysByProvider: none, OnBadKey: "fail", OnLimited: new(gen.OnLimitedFail), Operations: new(gen.OperationsInference)}, read(member))
		})
		t.Run("written and read", func(t *testing.T) {
			before := time.Now().Truncate(time.Microsecond)
			exceptions := gen.UserKeysByProvider{"anthropic": "require", "openai": "forbid"}
			set := setPolicy(t, s, map[string]any{"user_keys": "require", "user_keys_by_provider": exceptions, "on_bad_key": "next_key", "on_limited": "next_key", "operations": "all", "removal_grace_days": 365})
			by := owner
			require.WithinRange(t, *set.UpdatedAt, before, time.Now())
			require.Equal(t, gen.Policy{
				UserKeys: "require", UserKeysByProvider: exceptions, OnBadKey: "next_key", OnLimited: new(gen.OnLimitedNextKey), Operations: new(gen.OperationsAll), RemovalGraceDays: new(365), UpdatedAt: set.UpdatedAt, UpdatedBy: &by,
			}, set)
			require.Equal(t, set, read(member))
			require.Equal(t, gen.OnBadKey("next_key"), resolve(t, s, member, "openai").OnBadKey)
			require.Equal(t, gen.OnLimitedNextKey, *resolve(t, s, member, "openai").OnLimited)
		})
		t.Run("what is left out returns to its default", func(t *testing.T) {
			set := setPolicy(t, s, map[string]any{"on_bad_key": "next_key"})
			require.Equal(t, gen.Policy{
				UserKeys: "allow", UserKeysByProvider: none, OnBadKey: "next_key", OnLimited: new(gen.OnLimitedFail), Operations: new(gen.OperationsInference), UpdatedAt: set.UpdatedAt, UpdatedBy: set.UpdatedBy,
			}, set)
			require.Equal(t, set, read(member))
			set = setPolicy(t, s, map[string]any{})
			require.Equal(t, gen.OnBadKey("fail"), set.OnBadKey)
			set = setPolicy(t, s, map[string]any{"user_keys_by_provider": map[string]any{}})
			require.Equal(t, none, set.UserKeysByProvider)
		})
		t.Run("it is the project's own", func(t *testing.T) {
			setPolicy(t, s, map[string]any{"user_keys": "forbid"})
			reply, err := s.Session("globex", "web", owner).GetPolicyWithResponse(t.Context(), self, self)
			require.NoError(t, err)
			require.Equal(t, gen.UserKeys("allow"), reply.JSON200.Policy.UserKeys)
		})
		t.Run("a refused one changes nothing", func(t *testing.T) {
			before := read(member)
			require.Equal(t, http.StatusBadRequest, put(t, s, owner, project+"/policy", map[string]any{"user_keys": "never"}).Status)
			for _, days := range []int{-1, 366} {
				require.Equal(t, http.StatusBadRequest, put(t, s, owner, project+"/policy", map[string]any{"removal_grace_days": days}).Status)
			}
			require.Equal(t, http.StatusForbidden, put(t, s, member, project+"/policy", map[string]any{"user_keys": "allow"}).Status)
			require.Equal(t, before, read(member))
		})
	})
}

// refuse reports, as a data plane does, that a provider refuses or accepts a key.
func refuse(t *testing.T, s *aikeystest.Service, id string, refused bool) {
	r, now := models.KeyReport{KeyID: id}, time.Now().UnixMicro()
	if refused {
		r.FailedAt, r.FailureStatus = now, http.StatusUnauthorized
	} else {
		r.UsedAt = now
	}
	var ids models.IDs
	_, err := s.Store.ReportKeys(t.Context(), models.DataPlane{}, []models.KeyReport{r}, func(kind models.EventType, k models.Key, _ models.ReportedCaller) models.Event {
		return models.Event{
			ID: ids.Next(models.EventIDPrefix, time.Now()), CustomerID: k.CustomerID, ProjectID: k.ProjectID, ScopeUserID: k.UserID,
			Type: kind, Outcome: models.OutcomeAllowed, At: now, ActorMethod: "data_plane", KeyID: k.ID,
		}
	})
	require.NoError(t, err)
}

func TestResolveKeyOnBadKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared := s.As(owner).Register(t, s.Shared("shared"))
		older := s.As(member).Register(t, s.Own("older"))
		newest := s.As(member).Register(t, s.Own("newest"))
		requireServes := func(key gen.Key, reason, scope string) {
			got := resolve(t, s, member, "openai")
			require.Equal(t, []string{key.ID, reason, scope}, []string{got.Key.ID, got.Reason, *got.Scope})
		}
		refuse(t, s, newest.ID, true)
		requireServes(newest, "user_key", "user")
		setPolicy(t, s, map[string]any{"on_bad_key": "next_key"})
		requireServes(older, "next_key", "user")
		refuse(t, s, older.ID, true)
		requireServes(shared, "next_key", "project")
		setPolicy(t, s, map[string]any{"on_bad_key": "next_key", "user_keys": "require"})
		requireServes(newest, "user_key", "user")
		refuse(t, s, newest.ID, false)
		requireServes(newest, "user_key", "user")
	})
}

func TestResolveKeyOnLimited(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		reserve, first := s.As(owner).Register(t, s.Shared("reserve")), s.As(owner).Register(t, s.Shared("first"))
		require.Equal(t, http.StatusBadRequest, put(t, s, owner, project+"/policy", map[string]any{"on_limited": "wait"}).Status)
		require.Equal(t, http.StatusBadRequest, get(t, s, member, project+"/resolve?provider=openai&limited=first").Status)
		reasons := func(limited string) (found []string) {
			reply := get(t, s, member, project+"/resolve?provider=openai&explain=true&limited="+limited)
			require.Equal(t, http.StatusOK, reply.Status)
			got := decode[gen.ResolveResponse](t, reply)
			for _, c := range got.Candidates {
				found = append(found, c.Reason)
			}
			return append(found, got.Key.Name, got.Reason)
		}
		unmoved := []string{"project_key", "not_first", "first", "project_key"}
		require.Equal(t, unmoved, reasons(first.ID), "fail is the default")
		setPolicy(t, s, map[string]any{"on_limited": "next_key"})
		want := []string{"limited", "next_key_limited", "reserve", "next_key_limited"}
		require.Equal(t, want, reasons(first.ID))
		require.Equal(t, want, reasons(strings.TrimPrefix(first.ID, "byok_")))
		require.Equal(t, unmoved, reasons(reserve.ID))
	})
}

func TestKeyLastUse(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		require.Nil(t, key.LastUsedAt)
		require.Nil(t, key.LastFailure)
		before := time.Now().Truncate(time.Microsecond)
		refuse(t, s, key.ID, false)
		refuse(t, s, key.ID, true)
		got := read(t, s, member, key.ID)
		require.WithinRange(t, *got.LastUsedAt, before, time.Now())
		require.WithinRange(t, got.LastFailure.At, *got.LastUsedAt, time.Now())
		require.Equal(t, http.StatusUnauthorized, got.LastFailure.Status)
		require.Equal(t, []gen.Key{got}, list(t, s, member))
	})
}

func TestARemovalHasAReceiptAndIsUndoneByOwners(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(member).Register(t, s.Own("mine"))
		path := project + "/members/" + member
		impact := decode[gen.MemberImpactResponse](t, get(t, s, owner, path+"/impact"))
		require.Equal(t, 1, impact.Stops.OwnKeys)
		require.Equal(t, 1, impact.AtProviders[0].OwnKeys)
		require.NotContains(t, string(get(t, s, owner, path+"/impact").Body), key.ID, "a member's own keys are not an owner's to see")
		for _, user := range []string{other, sam} {
			require.Equal(t, http.StatusForbidden, get(t, s, user, path+"/impact").Status)
			require.Equal(t, http.StatusForbidden, ask(t, s, user, http.MethodPost, path+"/restore", nil).Status)
		}
		require.Equal(t, http.StatusNotFound, ask(t, s, owner, http.MethodPost, path+"/restore", nil).Status, "nothing was removed")

		removed := decode[gen.RemoveMemberResponse](t, del(t, s, owner, path+"?wait=2s&grace_days=1"))
		require.Equal(t, "complete", removed.Receipt.State)
		require.Equal(t, []int{1, 1}, []int{*removed.SuspendedKeys, *removed.SuspendedTokens})
		require.Equal(t, http.StatusForbidden, get(t, s, member, project+"/aikeys").Status)
		require.Equal(t, http.StatusOK, put(t, s, owner, path, map[string]any{"role": "member"}).Status)
		require.Equal(t, http.StatusForbidden, get(t, s, member, project+"/aikeys").Status, "the API key stays barred")
		require.Equal(t, http.StatusForbidden, ask(t, s, member, http.MethodPatch, project+"/aikeys/"+key.ID, map[string]any{"disabled": false}).Status)

		restored := decode[gen.RestoreMemberResponse](t, ask(t, s, owner, http.MethodPost, path+"/restore", nil))
		require.Equal(t, []int{1, 1}, []int{restored.RestoredKeys, restored.RestoredTokens})
		require.True(t, *read(t, s, member, key.ID).Serves)

		setPolicy(t, s, map[string]any{"removal_grace_days": 14})
		removed = decode[gen.RemoveMemberResponse](t, del(t, s, owner, path))
		require.Equal(t, 14*24*time.Hour, removed.RestoreUntil.Sub(removed.Receipt.RevokedAt))
	})
}

// vllm is the body of a request that adds a server.
func vllm(changes ...map[string]any) map[string]any {
	body := map[string]any{"slug": "x-vllm", "base_url": "https://llm.example/v1"}
	for _, change := range changes {
		maps.Copy(body, change)
	}
	return body
}

func TestOwnersAddAndRemoveServersOfTheirOwn(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		reply := post(t, s, owner, project+"/providers", vllm(map[string]any{"auth_style": "header", "header": "X-Llm-Key", "display_name": "vLLM"}))
		require.Equal(t, http.StatusCreated, reply.Status, "%s", reply.Body)
		added := decode[gen.CustomProviderResponse](t, reply).Provider
		require.Equal(t, []string{"x-vllm", "vLLM", "openai", "header", "X-Llm-Key", aikeystest.Project, owner},
			[]string{added.Slug, added.DisplayName, added.Dialect, added.AuthStyle, *added.Header, *added.ProjectID, added.CreatedBy})
		listed := decode[gen.ListCustomProvidersResponse](t, get(t, s, member, project+"/providers"))
		require.Equal(t, gen.ListCustomProvidersResponse{Providers: []gen.CustomProvider{added}, OwnersMayAdd: true}, listed)
		require.Equal(t, http.StatusConflict, post(t, s, owner, project+"/providers", vllm()).Status, "it never changes")

		key := s.As(member).Register(t, gen.RegisterRequest{Provider: "x-vllm", Name: "mine", Secret: secret.New(s.Secret()), UserScope: new(true)})
		inUse := del(t, s, owner, project+"/providers/x-vllm")
		require.Equal(t, http.StatusConflict, inUse.Status)
		require.Equal(t, "/problems/provider-in-use", inUse.Problem(t).Type)
		require.Equal(t, http.StatusOK, del(t, s, member, project+"/aikeys/"+key.ID).Status)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/providers/x-vllm").Status)
		require.Equal(t, http.StatusNotFound, del(t, s, owner, project+"/providers/x-vllm").Status)
		refused := post(t, s, owner, project+"/aikeys", gen.RegisterRequest{Provider: "x-vllm", Name: "late", Secret: secret.New(s.Secret())})
		requireField(t, refused, "provider is not a provider that we know")

		trail := events(t, s, member)
		require.Equal(t, []string{"provider.deleted", owner, "x-vllm"}, []string{trail[0].Type, trail[0].Actor.UserID, *trail[0].Provider})
		require.Equal(t, "https://llm.example/v1", *trail[0].Before.BaseURL)
		require.Equal(t, "provider.created", trail[len(trail)-1].Type)
		require.Equal(t, "vLLM", *trail[len(trail)-1].After.Name)
	})
}

func TestOnlyOwnersChangeServersOfTheProject(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	require.Equal(t, http.StatusCreated, post(t, s, owner, project+"/providers", vllm()).Status)
	for _, user := range []string{member, sam} {
		require.Equal(t, http.StatusForbidden, post(t, s, user, project+"/providers", vllm(map[string]any{"slug": "x-b"})).Status)
		require.Equal(t, http.StatusForbidden, del(t, s, user, project+"/providers/x-vllm").Status)
	}
	require.Equal(t, "provider.deleted denied", fmt.Sprint(events(t, s, owner)[0].Type, " ", events(t, s, owner)[0].Outcome))
	require.Equal(t, http.StatusForbidden, get(t, s, sam, project+"/providers").Status)

	// Another project of the customer can't see or remove the server, or register keys for it.
	elsewhere := "/v1/customers/" + aikeystest.Customer + "/projects/" + aikeystest.OtherProject
	require.Empty(t, decode[gen.ListCustomProvidersResponse](t, get(t, s, sam, elsewhere+"/providers")).Providers)
	require.Equal(t, http.StatusNotFound, del(t, s, sam, elsewhere+"/providers/x-vllm").Status)
	requireField(t, post(t, s, sam, elsewhere+"/aikeys", gen.RegisterRequest{Provider: "x-vllm", Name: "a", Secret: secret.New(s.Secret())}), "provider is not")
}

func TestOnlyWhereOperatorsLetThemDoOwnersAddServers(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{OperatorsAddProviders: true})
	require.NoError(t, s.Store.Transact(t.Context(), func(tx *models.Tx) error {
		return tx.CreateCustomProvider(models.CustomProvider{CustomerID: aikeystest.Customer, Slug: "x-ours", Name: "Ours", BaseURL: "https://llm.example/v1",
			Dialect: "anthropic", Auth: "none", CreatedBy: "ops@host"})
	}))
	for _, reply := range []aikeystest.Reply{post(t, s, owner, project+"/providers", vllm()), del(t, s, owner, project+"/providers/x-ours")} {
		require.Equal(t, http.StatusForbidden, reply.Status)
		require.Contains(t, reply.Problem(t).Detail, "operator")
	}
	listed := decode[gen.ListCustomProvidersResponse](t, get(t, s, member, project+"/providers"))
	require.False(t, listed.OwnersMayAdd)
	require.Len(t, listed.Providers, 1)
	require.Nil(t, listed.Providers[0].ProjectID)
}

func TestServersAreDescribedPlainlyAndFewToAProject(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for want, change := range map[string]map[string]any{
		"base_url must hold no user":        {"base_url": "https://u:hunter2@llm.example/v1"},
		"base_url must not be a link-local": {"base_url": "http://169.254.169.254/latest"},
		"base_url looks like it holds":      {"base_url": "https://llm.example/sk-ant-api03-aaaaaaaaaaaaaaaaaaaa"},
		"display_name must be 1 to 64":      {"display_name": "vLLM "},
		"display_name looks like it holds":  {"display_name": "gsk_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
		"header must be the name":           {"auth_style": "header", "header": "Host"},
		"header is required if auth is":     {"header": "X-Api-Key"},
		"slug must be x- and 1 to 62":       {"slug": "openai"},
		"auth_style must be one of bearer,": {"auth_style": "aws_sigv4"},
	} {
		reply := post(t, s, owner, project+"/providers", vllm(change))
		requireField(t, reply, want)
		require.NotContains(t, string(reply.Body), "hunter2")
	}
	for n := range 20 {
		require.Equal(t, http.StatusCreated, post(t, s, owner, project+"/providers", vllm(map[string]any{"slug": fmt.Sprintf("x-%d", n)})).Status)
	}
	reply := post(t, s, owner, project+"/providers", vllm())
	require.Equal(t, http.StatusConflict, reply.Status)
	require.Equal(t, "/problems/quota-exceeded", reply.Problem(t).Type)
}

// makeToken makes an API key. The request authenticates with another one.
func makeToken(t *testing.T, s *aikeystest.Service, with string, body map[string]any) (gen.Token, string) {
	reply := s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/tokens", Token: with, Body: encode(t, body)})
	made := decode[struct {
		Token  gen.Token
		APIKey string `json:"api_key"`
	}](t, reply)
	return made.Token, made.APIKey
}

func TestAnAPIKeyIsShownOnceAndWorks(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		made, text := makeToken(t, s, s.As(member).Token, map[string]any{"name": "nightly", "projects": []string{aikeystest.Project}})
		require.InDelta(t, 90*24*time.Hour, made.ExpiresAt.Sub(made.CreatedAt), 0)
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/tokens?state=active", Token: text})
		require.Equal(t, http.StatusOK, reply.Status)
		require.NotContains(t, string(reply.Body), text[30:])
		mine := decode[gen.ListTokensResponse](t, reply).Tokens
		require.Len(t, mine, 1, "it is limited, so it sees itself alone")
		require.Equal(t, []any{made.TokenID, true, "active"}, []any{mine[0].TokenID, *mine[0].Current, mine[0].State})
		require.NotContains(t, s.Evidence.Log(), text[30:])

		reply = s.Send(t, aikeystest.Request{Method: http.MethodDelete, Path: "/v1/tokens/" + made.TokenID + "?wait=2s", Token: text})
		require.Equal(t, http.StatusOK, reply.Status)
		revoked := decode[gen.RevokeTokenResponse](t, reply)
		require.Equal(t, []string{"revoked", "complete", member}, []string{revoked.Token.State, revoked.Receipt.State, revoked.Receipt.RevokedBy})
		require.Equal(t, http.StatusUnauthorized, s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: text}).Status)
		again := decode[gen.RevokeTokenResponse](t, del(t, s, member, "/v1/tokens/"+made.TokenID))
		require.Equal(t, revoked.Receipt.RevokedAt, again.Receipt.RevokedAt)
		kinds := []string{}
		for _, e := range events(t, s, owner) {
			if e.TokenID != nil && *e.TokenID == made.TokenID {
				kinds = append(kinds, e.Type+" "+*e.MemberID+" "+e.Actor.UserID)
			}
		}
		require.Equal(t, []string{"token.revoked " + member + " " + member, "token.created " + member + " " + member}, kinds)
	})
}

func TestAPIKeysDoNotWiden(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	end := time.Now().Add(time.Hour).UTC()
	_, limited := makeToken(t, s, s.As(owner).Token, map[string]any{"name": "limited", "projects": []string{aikeystest.Project}, "expires_at": end})
	lasting, _ := makeToken(t, s, s.As(owner).Token, map[string]any{"name": "lasting", "expires_at": nil})
	require.Nil(t, lasting.ExpiresAt)
	child, _ := makeToken(t, s, limited, map[string]any{"name": "child"})
	require.Equal(t, []string{aikeystest.Project}, child.Projects, "it is limited as the one that made it")
	require.WithinDuration(t, end, *child.ExpiresAt, time.Microsecond)
	for name, body := range map[string]map[string]any{
		"never": {"name": "x", "expires_at": nil}, "later": {"name": "x", "expires_at": end.Add(time.Minute)},
	} {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/tokens", Token: limited, Body: encode(t, body)})
		require.Equal(t, http.StatusForbidden, reply.Status, name)
		require.Contains(t, reply.Problem(t).Detail, "API key")
	}
	require.Equal(t, "token.created", events(t, s, owner)[0].Type)
	require.Equal(t, "denied", events(t, s, owner)[0].Outcome)
	for name, body := range map[string]map[string]any{
		"a project of others": {"name": "x", "projects": []string{"elsewhere"}}, "a secret as its name": {"name": limited},
		"a past end": {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "no projects": {"name": "x", "projects": []string{}}, "a dash": {"name": "x", "projects": []string{"-"}},
	} {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/tokens", Token: s.As(owner).Token, Body: encode(t, body)})
		require.Contains(t, []int{http.StatusBadRequest, http.StatusForbidden}, reply.Status, name)
		require.NotContains(t, string(reply.Body), limited[30:])
	}
}

func TestOwnersEndAPIKeysInTheirProjectAlone(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		s.SetMember(aikeystest.Customer, "second", member, models.RoleOwner)
		wide, text := makeToken(t, s, s.As(member).Token, map[string]any{"name": "wide"})
		narrow, _ := makeToken(t, s, s.As(member).Token, map[string]any{"name": "secret plans", "projects": []string{"second"}})
		listed := map[string]gen.Token{}
		for _, token := range decode[gen.ListTokensResponse](t, get(t, s, owner, project+"/tokens?state=active")).Tokens {
			listed[token.TokenID] = token
		}
		require.Contains(t, listed, wide.TokenID)
		require.True(t, *listed[wide.TokenID].ReachesBeyond)
		require.NotContains(t, listed, narrow.TokenID, "it does not reach the project")
		require.Equal(t, http.StatusNotFound, del(t, s, owner, project+"/tokens/"+narrow.TokenID).Status)
		for _, path := range []string{project + "/tokens", project + "/tokens/" + wide.TokenID} {
			require.Equal(t, http.StatusForbidden, ask(t, s, member, map[bool]string{true: "GET", false: "DELETE"}[path == project+"/tokens"], path, nil).Status)
		}
		require.Equal(t, http.StatusForbidden, get(t, s, sam, project+"/tokens").Status)

		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/tokens/"+wide.TokenID+"?wait=2s").Status)
		status := func(path string) int {
			return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: path, Token: text}).Status
		}
		require.Equal(t, http.StatusForbidden, status(project+"/aikeys"))
		require.Equal(t, http.StatusOK, status("/v1/customers/-/projects/second/aikeys"), "the owner decides about one project")
		reply := s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/tokens", Token: text, Body: encode(t, map[string]any{"name": "x"})})
		require.Equal(t, http.StatusForbidden, reply.Status, "it makes none that gets around that")
		reply = s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/projects", Token: text})
		projects := decode[gen.ListProjectsResponse](t, reply).Projects
		require.Len(t, projects, 1)
		require.Equal(t, "second", projects[0].ProjectID)
	})
}

// eachFolded runs a test on a service of every engine. The service folds denied attempts when the test calls Flush.
func eachFolded(t *testing.T, test func(t *testing.T, s *aikeystest.Service, denials *aikeys.Denials)) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		store := modelstest.NewStore(t, e)
		denials := aikeys.NewDenials(store, slog.New(slog.DiscardHandler))
		test(t, aikeystest.Start(t, aikeystest.Options{Store: store, Denials: denials}), denials)
	})
}

func TestRepeatedDenialsAreFolded(t *testing.T) {
	eachFolded(t, func(t *testing.T, s *aikeystest.Service, denials *aikeys.Denials) {
		const attempts = 50
		refuse := func(user string) int {
			return put(t, s, user, project+"/policy", map[string]any{"user_keys": "allow"}).Status
		}
		for _, status := range together(attempts, func(int) int { return refuse(member) }) {
			require.Equal(t, http.StatusForbidden, status)
		}
		require.Equal(t, 1, denied(t, s), "the first is there at once")
		require.Equal(t, http.StatusForbidden, refuse(other))
		require.Equal(t, 2, denied(t, s), "another member's is another")

		interrupted, cancel := context.WithCancel(t.Context())
		cancel()
		denials.Flush(interrupted)
		require.Equal(t, 2, denied(t, s), "what can't be written is kept")
		denials.Flush(t.Context())
		require.Equal(t, 3, denied(t, s))
		folded := events(t, s, owner)[0]
		require.Equal(t, []any{"policy.set", "denied", member}, []any{folded.Type, folded.Outcome, folded.Actor.UserID})
		require.EqualValues(t, attempts-1, *folded.Repeated)
		require.False(t, folded.FirstAt.After(folded.At))
		require.WithinDuration(t, time.Now(), *folded.FirstAt, time.Minute)
		require.NotEmpty(t, folded.RequestID)
		require.NotEmpty(t, folded.SourceIP)

		denials.Flush(t.Context())
		require.Equal(t, 3, denied(t, s), "nothing was repeated since")
		refuse(member)
		require.Equal(t, 4, denied(t, s), "the first of the next window")
	})
}

// Beyond 20 targets, a user's attempts of one type are counted together.
func TestDenialsOfManyTargetsAreFolded(t *testing.T) {
	eachFolded(t, func(t *testing.T, s *aikeystest.Service, denials *aikeys.Denials) {
		const attempts, apart = 100, 20
		for i := range attempts {
			reply := put(t, s, member, project+fmt.Sprintf("/members/u%d", i), map[string]any{"role": "owner"})
			require.Equal(t, http.StatusForbidden, reply.Status)
		}
		require.Equal(t, apart+1, denied(t, s))
		denials.Flush(t.Context())
		require.Equal(t, apart+2, denied(t, s))
		stoodFor := int64(0)
		for _, event := range events(t, s, owner) {
			switch {
			case event.Outcome != string(models.OutcomeDenied):
			case event.Repeated != nil:
				stoodFor += *event.Repeated
				require.Equal(t, fmt.Sprintf("u%d", attempts-1), *event.MemberID, "the last one")
			default:
				stoodFor++
			}
		}
		require.EqualValues(t, attempts, stoodFor, "no attempt is lost, and none counts twice")
	})
}
