package aikeys_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/models"
)

// makeToken makes an API key with another one.
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
