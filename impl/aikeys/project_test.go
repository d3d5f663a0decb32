package aikeys_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/models"
)

// line is an event without its ids and times.
type line struct{ kind, outcome, actor, key, provider, member, role string }

func lines(found []gen.Event) []line {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	out := []line{}
	for _, e := range slices.Backward(found) {
		l := line{kind: e.Type, outcome: e.Outcome, actor: e.Actor.UserID, key: text(e.KeyID), provider: text(e.Provider), member: text(e.MemberID)}
		if e.Role != nil {
			l.role = string(*e.Role)
		}
		out = append(out, l)
	}
	return out
}

func TestEventsOfWrites(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared := s.As(owner).Register(t, s.Shared("shared"))
		mine := s.As(member).Register(t, s.Own("mine"))
		theirs := s.As(other).Register(t, s.Own("theirs"))
		setPolicy(t, s, map[string]any{"user_keys": "allow"})
		require.Equal(t, http.StatusOK, put(t, s, owner, project+"/members/new", map[string]any{"role": "member"}).Status)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/new").Status)
		// What a member may not do, and what fails for another reason.
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

// What the operator does by command has no user, no address and no request.
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
		require.True(t, slices.IsSortedFunc(want, func(a, b string) int { return -cmpText(a, b) }))
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

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
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
			t.Helper()
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
		require.Equal(t, gen.Provider{
			Slug: p.Slug, DisplayName: p.DisplayName, BaseURL: p.BaseURL, AuthStyle: string(p.AuthStyle), SecretFormat: string(p.SecretFormat),
			Prefixes: p.KnownPrefixes(), RequiredFields: p.RequiredFields(), KeyPageURL: p.KeyPage,
		}, reply.JSON200.Providers[i])
	}
}
