package aikeys_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// reasons are the reasons of the candidates by their names; "" is the name of a key that the user may not see.
func reasons(r gen.ResolveResponse) map[string]string {
	found := map[string]string{}
	for _, c := range r.Candidates {
		name := ""
		if c.Key != nil {
			name = c.Key.Name
		}
		found[name] = c.Reason
	}
	return found
}

func TestTheKeyOfTheLowestOrderServes(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		first := s.As(owner).Register(t, s.Shared("first"))
		require.Equal(t, []any{0, (*int)(nil)}, []any{*first.Order, first.Weight})
		reserve := s.As(owner).Register(t, s.Shared("reserve", func(r *gen.RegisterRequest) { r.Order = new(1) }))
		got := resolve(t, s, member, "openai")
		require.Equal(t, []string{"order", first.ID}, []string{got.Reason, got.Key.ID})
		changed(t, s, first.ID, `{"order":2}`)
		require.Equal(t, reserve.ID, resolve(t, s, member, "openai").Key.ID)
		changed(t, s, first.ID, `{"order":1}`)
		got = resolve(t, s, member, "openai")
		require.Equal(t, []string{"project_key", reserve.ID}, []string{got.Reason, got.Key.ID}, "the newest of the same order")

		changed(t, s, first.ID, `{"weight":1}`)
		key := changed(t, s, reserve.ID, `{"weight":1000}`)
		require.Equal(t, 1000, *key.Weight)
		require.Equal(t, "weight", resolve(t, s, member, "openai").Reason)
		key = changed(t, s, reserve.ID, `{"weight":null}`)
		require.Nil(t, key.Weight)
		require.Equal(t, "project_key", resolve(t, s, member, "openai").Reason)
		for _, body := range []string{`{"order":1001}`, `{"order":null}`, `{"order":1.5}`, `{"weight":0}`, `{"weight":1001}`, `{"weight":"1"}`} {
			require.Equal(t, http.StatusBadRequest, patch(t, s, owner, key.ID, body, "").Status, body)
		}
	})
}

func TestExplainListsEveryKeyAndWhy(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, name := range []string{"first", "last", "disabled", "revoked"} {
			s.As(owner).Register(t, s.Shared(name))
		}
		byName := map[string]string{}
		for _, k := range list(t, s, owner) {
			byName[k.Name] = k.ID
		}
		changed(t, s, byName["last"], `{"order":5}`)
		changed(t, s, byName["disabled"], `{"disabled":true}`)
		s.As(owner).RevokeKey(t, byName["revoked"])
		require.Empty(t, resolve(t, s, member, "openai").Candidates)
		want := map[string]string{"first": "order", "last": "not_first", "disabled": "key_disabled"}
		require.Equal(t, want, reasons(resolve(t, s, member, "openai&explain=true")))

		own := s.As(member).Register(t, s.Own("mine"))
		got := resolve(t, s, member, "openai&explain=true")
		want["mine"], want["first"] = "user_key", "not_first"
		require.Equal(t, want, reasons(got))
		require.Equal(t, own.ID, got.Candidates[0].Key.ID, "they come in their order")
		require.Equal(t, "last", got.Candidates[2].Key.Name)
	})
}

func TestOwnersExplainForOthersWithoutTheirOwnKeys(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared, own := s.As(owner).Register(t, s.Shared("shared")), s.As(member).Register(t, s.Own("mine"))
		got := resolve(t, s, owner, "openai&explain=true&user_id="+member)
		require.Nil(t, got.Key)
		require.Equal(t, []any{"user_key", "user", true}, []any{got.Reason, *got.Scope, *got.Serves})
		require.Equal(t, map[string]string{"": "user_key", "shared": "not_first"}, reasons(got))
		s.As(member).RevokeKey(t, own.ID)
		require.Equal(t, shared.ID, resolve(t, s, owner, "openai&explain=true&user_id="+member).Key.ID)
		s.As(owner).RevokeKey(t, shared.ID)
		require.Equal(t, shared.ID, resolve(t, s, owner, "openai&explain=true&user_id="+member).RevokedKey.ID)
		s.SetMember("acme", "web", "dora", "member")
		own = s.As("dora").Register(t, s.Own("hers"))
		s.As("dora").RevokeKey(t, own.ID)
		hidden := resolve(t, s, owner, "openai&explain=true&user_id=dora")
		require.Equal(t, "key_revoked", hidden.Reason)
		require.Nil(t, hidden.RevokedKey)

		require.Equal(t, "not_a_member", resolve(t, s, owner, "openai&explain=true&user_id=nobody").Reason)
		require.Equal(t, http.StatusForbidden, get(t, s, member, project+"/resolve?provider=openai&user_id="+owner).Status)
		require.Equal(t, http.StatusForbidden, get(t, s, member, project+"/resolve?provider=openai&user_id=nobody").Status)
		require.Equal(t, http.StatusOK, get(t, s, member, project+"/resolve?provider=openai&user_id="+member).Status)
		require.Equal(t, http.StatusBadRequest, get(t, s, member, project+"/resolve?provider=openai&explain=1").Status)
	})
}

func TestRestrictionsAreMergedAndChecked(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n", func(r *gen.RegisterRequest) { r.Restrict = &gen.Restrictions{Users: []string{member}} }))
		require.Equal(t, &gen.Restrictions{Users: []string{member}}, key.Restrict)
		require.Equal(t, key.ID, resolve(t, s, member, "openai").Key.ID)
		got := resolve(t, s, owner, "openai&explain=true")
		require.Equal(t, []any{"key_restricted", false}, []any{got.Reason, *got.Serves})
		require.Equal(t, map[string]string{"n": "other_users"}, reasons(got))

		key = changed(t, s, key.ID, `{"restrict":{"models":["gpt-4o*"],"operations":["/chat/completions"]}}`)
		require.Equal(t, &gen.Restrictions{Users: []string{member}, Models: []string{"gpt-4o*"}, Operations: []string{"/chat/completions"}}, key.Restrict)
		key = changed(t, s, key.ID, `{"restrict":{"users":null,"models":["o3"]}}`)
		require.Equal(t, &gen.Restrictions{Models: []string{"o3"}, Operations: []string{"/chat/completions"}}, key.Restrict)
		state := events(t, s, owner)[0]
		require.Equal(t, []any{"key.updated", []string{"gpt-4o*"}, []string{"o3"}}, []any{state.Type, state.Before.Restrict.Models, state.After.Restrict.Models})
		require.Nil(t, changed(t, s, key.ID, `{"restrict":null}`).Restrict)
		for _, body := range []string{
			`{"restrict":{}}`, `{"restrict":{"models":[]}}`, `{"restrict":{"models":["a*b"]}}`, `{"restrict":{"models":["a b"]}}`, `{"restrict":{"operations":["chat"]}}`,
			`{"restrict":{"operations":["/chat/"]}}`, `{"restrict":{"operations":["/a//b"]}}`, `{"restrict":{"operations":["/a?b"]}}`, `{"restrict":{"users":["a/b"]}}`, `{"restrict":{"paths":["/a"]}}`,
		} {
			require.Equal(t, http.StatusBadRequest, patch(t, s, owner, key.ID, body, "").Status, body)
		}
		own := s.As(member).Register(t, s.Own("mine"))
		require.Equal(t, http.StatusBadRequest, patch(t, s, member, own.ID, `{"restrict":{"users":["`+member+`"]}}`, "").Status)
		require.Equal(t, http.StatusOK, patch(t, s, member, own.ID, `{"restrict":{"models":["gpt-4o"]}}`, "").Status)
	})
}

func TestLimitsAreMergedAndChecked(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n", func(r *gen.RegisterRequest) { r.Limit = &gen.KeyLimit{RequestsPerMinute: new(60)} }))
		require.Equal(t, &gen.KeyLimit{RequestsPerMinute: new(60)}, key.Limit)
		key = changed(t, s, key.ID, `{"limit":{"requests_per_day":1000000000,"concurrent":1}}`)
		require.Equal(t, &gen.KeyLimit{RequestsPerMinute: new(60), RequestsPerDay: new(1_000_000_000), Concurrent: new(1)}, key.Limit)
		key = changed(t, s, key.ID, `{"limit":{"requests_per_minute":null,"concurrent":null}}`)
		require.Equal(t, &gen.KeyLimit{RequestsPerDay: new(1_000_000_000)}, key.Limit)
		state := events(t, s, owner)[0]
		require.Equal(t, []any{"key.updated", new(60), (*int)(nil)}, []any{state.Type, state.Before.Limit.RequestsPerMinute, state.After.Limit.RequestsPerMinute})
		require.Equal(t, key.Limit, resolve(t, s, member, "openai").Key.Limit)
		require.Nil(t, changed(t, s, key.ID, `{"limit":null}`).Limit)
		for _, body := range []string{
			`{"limit":{}}`, `{"limit":0}`, `{"limit":{"requests_per_minute":0}}`, `{"limit":{"requests_per_minute":-1}}`, `{"limit":{"requests_per_minute":1.5}}`, `{"limit":{"requests_per_minute":"60"}}`,
			`{"limit":{"requests_per_minute":1000001}}`, `{"limit":{"requests_per_day":1000000001}}`, `{"limit":{"concurrent":100001}}`, `{"limit":{"concurrent":1e99}}`, `{"limit":{"dollars":5}}`,
		} {
			require.Equal(t, http.StatusBadRequest, patch(t, s, owner, key.ID, body, "").Status, body)
		}
		require.Equal(t, http.StatusPreconditionFailed, patch(t, s, owner, key.ID, `{"limit":{"concurrent":1}}`, `"0"`).Status)
	})
}
