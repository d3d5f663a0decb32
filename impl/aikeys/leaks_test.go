package aikeys_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// leaked searches for values, and requires that the search succeeds. It returns all matches and, for each match, a line
// with its index, id, version, state and action.
func leaked(t *testing.T, s *aikeystest.Service, user string, revoke bool, values ...string) (all []gen.LeakMatch, lines [][]any) {
	reply := post(t, s, user, project+"/leaks?wait=2s", map[string]any{"values": values, "revoke": revoke, "source": "gitleaks of acme/website"})
	for _, m := range decode[gen.LeaksResponse](t, reply).Matches {
		id, version := m.TokenID, 0
		if m.KeyID != nil {
			id, version = m.KeyID, *m.Version
		}
		all, lines = append(all, m), append(lines, []any{m.Index, *id, version, m.State, m.Action})
	}
	return all, lines
}

func TestALeakedKeyIsFoundAndRevoked(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared, own := s.Shared("n"), s.Own("o")
		key, other := s.As(owner).Register(t, shared), s.As(member).Register(t, own)
		values := []string{"OPENAI_API_KEY=" + shared.Secret.Reveal(), "sk-" + s.Secret(), `Authorization: "Bearer ` + own.Secret.Reveal() + `"`, " " + shared.Secret.Reveal() + "\n"}
		found, lines := leaked(t, s, owner, false, values...)
		require.Equal(t, [][]any{{0, key.ID, 1, "active", "none"}, {2, other.ID, 1, "active", "none"}, {3, key.ID, 1, "active", "none"}}, lines)
		require.Equal(t, []any{"key", "openai", key.Name, (*string)(nil)}, []any{found[0].Kind, *found[0].Provider, *found[0].Name, found[0].UserID})
		require.Equal(t, []any{(*string)(nil), member}, []any{found[1].Name, *found[1].UserID}, "another's own key has no name")

		found, lines = leaked(t, s, owner, true, values...)
		require.Equal(t, [][]any{{0, key.ID, 1, "revoked", "revoked"}, {2, other.ID, 1, "revoked", "revoked"}, {3, key.ID, 1, "revoked", "revoked"}}, lines)
		require.Equal(t, []string{"complete", owner}, []string{found[0].Receipt.State, found[0].Receipt.RevokedBy})
		for user, want := range map[string]string{owner: key.ID, member: other.ID} {
			event := events(t, s, user)[0]
			require.Equal(t, []string{"key.revoked", want, "leaked", "gitleaks of acme/website", owner},
				[]string{event.Type, *event.KeyID, *event.After.Reason, *event.After.Source, event.Actor.UserID})
		}
		_, lines = leaked(t, s, owner, true, values[0])
		require.Equal(t, [][]any{{0, key.ID, 1, "revoked", "none"}}, lines, "again")
	})
}

func TestALeakOfAnOldVersionEndsThatAlone(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		body := s.Shared("n")
		key, second, third := s.As(owner).Register(t, body), "sk-"+s.Secret(), "sk-"+s.Secret()
		rotated(t, s, key.ID, second, `"activate":"now"`)
		rotated(t, s, key.ID, third, `"activate":"manual"`)
		values := []string{body.Secret.Reveal(), second, third}
		_, lines := leaked(t, s, owner, false, values...)
		require.Equal(t, [][]any{{0, key.ID, 1, "retiring", "none"}, {1, key.ID, 2, "active", "none"}, {2, key.ID, 3, "pending", "none"}}, lines)
		_, lines = leaked(t, s, owner, true, values[0], values[2])
		require.Equal(t, [][]any{{0, key.ID, 1, "destroyed", "destroyed"}, {1, key.ID, 3, "destroyed", "destroyed"}}, lines)
		require.Equal(t, []string{"destroyed", "active", "destroyed"}, states(t, s, owner, key.ID))
		_, lines = leaked(t, s, owner, true, values...)
		require.Equal(t, [][]any{{0, key.ID, 1, "destroyed", "none"}, {1, key.ID, 2, "revoked", "revoked"}, {2, key.ID, 3, "destroyed", "none"}}, lines)
	})
}

func TestAFieldOfALeakedCredentialIsFound(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		access, secret, both := s.Secret(), s.Secret(), s.Secret()
		register := func(name, access, secret string) gen.Key {
			return s.As(owner).Register(t, s.Shared(name, func(r *gen.RegisterRequest) {
				r.Provider, r.Secret = "bedrock", gensecret.New(`{"region":"us-east-1","access_key_id":"`+access+`","secret_access_key":"`+secret+`"}`)
			}))
		}
		key := register("b", access, secret)
		same := register("same in both fields", both, both)
		_, lines := leaked(t, s, owner, false, access, "export AWS_SECRET_ACCESS_KEY='"+secret+"'", `{"aws":"us-east-1"}`,
			`{"AccessKeyId": "x", "SecretAccessKey": "`+secret+`"}`)
		require.Equal(t, [][]any{{0, key.ID, 1, "active", "none"}, {1, key.ID, 1, "active", "none"}, {3, key.ID, 1, "active", "none"}}, lines)
		_, lines = leaked(t, s, owner, false, both)
		require.Equal(t, [][]any{{0, same.ID, 1, "active", "none"}}, lines)
	})
}

func TestALeakedAPIKeyIsRevokedEverywhere(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		made, text := makeToken(t, s, s.As(member).Token, map[string]any{"name": "nightly"})
		child, _ := makeToken(t, s, text, map[string]any{"name": "made with it"})
		elsewhere := s.Session(aikeystest.OtherCustomer, aikeystest.Project, owner).Token
		changed := text[:len(text)-1] + map[bool]string{true: "1", false: "0"}[text[len(text)-1] == '0']
		_, lines := leaked(t, s, owner, true, "AGENTROUTER_API_KEY="+text, elsewhere, changed, "dp_"+text[3:])
		require.Equal(t, [][]any{{0, made.TokenID, 0, "revoked", "revoked"}}, lines)
		require.Equal(t, http.StatusUnauthorized, s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: text}).Status)
		require.Equal(t, http.StatusOK, s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: elsewhere}).Status)
		require.NotContains(t, s.Evidence.Log(), text[30:])
		ended := map[string]string{}
		for _, e := range events(t, s, owner) {
			if e.Type == "token.revoked" {
				ended[*e.TokenID] = *e.After.Reason
			}
		}
		require.Equal(t, map[string]string{made.TokenID: "leaked", child.TokenID: "leaked"}, ended)
	})
}

func TestLeaksAreForOwnersWithinTheirProject(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	body := s.Shared("n")
	key := s.As(owner).Register(t, body)
	search := func(token, path string, revoke bool, source string) aikeystest.Reply {
		return s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: path + "/leaks", Token: token, Body: encode(t, map[string]any{
			"values": []string{body.Secret.Reveal()}, "revoke": revoke, "source": source,
		})})
	}
	for name, token := range map[string]string{"a member": s.As(member).Token, "a stranger": s.As(aikeystest.Stranger).Token} {
		for _, revoke := range []bool{false, true} {
			require.Equal(t, http.StatusForbidden, search(token, project, revoke, "x").Status, "%s", name)
		}
	}
	require.Equal(t, http.StatusBadRequest, search(s.As(owner).Token, project, true, body.Secret.Reveal()).Status)
	for _, where := range [][]string{{aikeystest.Customer, aikeystest.OtherProject, aikeystest.Stranger}, {aikeystest.OtherCustomer, aikeystest.Project, owner}} {
		reply := search(s.Session(where[0], where[1], where[2]).Token, "/v1/customers/"+where[0]+"/projects/"+where[1], true, "x")
		require.Equal(t, http.StatusOK, reply.Status)
		require.Empty(t, decode[gen.LeaksResponse](t, reply).Matches)
	}
	require.Equal(t, "active", read(t, s, owner, key.ID).State)
}

func TestSearchesForLeaksAreLimited(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	search := func(user string) aikeystest.Reply {
		return post(t, s, user, project+"/leaks", map[string]any{"values": []string{"x"}, "revoke": false})
	}
	s.SetMember(aikeystest.Customer, aikeystest.Project, "olaf", models.RoleOwner)
	for range 10 {
		require.Equal(t, http.StatusOK, search(owner).Status)
	}
	requireExhausted(t, search(owner))
	require.Equal(t, http.StatusOK, search("olaf").Status)
}

func TestADuplicateSecretIsNamedToWhoMayReadIt(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		body := s.Shared("n")
		secret := func(r *gen.RegisterRequest) { r.Secret = body.Secret }
		warned := func(user string, body gen.RegisterRequest) (id string, named []string) {
			reply := post(t, s, user, project+"/aikeys", body)
			require.Equal(t, http.StatusCreated, reply.Status)
			got := decode[gen.RegisterResponse](t, reply)
			for _, w := range got.Warnings {
				require.Equal(t, "duplicate_secret", w.Code)
				named = append(named, w.KeyID)
			}
			return got.Key.ID, named
		}
		first, named := warned(owner, body)
		require.Empty(t, named)
		own, named := warned(member, s.Own("o", secret))
		require.Equal(t, []string{first}, named)
		second, named := warned(owner, s.Shared("m", secret))
		require.Equal(t, []string{first}, named, "another's own key is not named")
		third := s.As(owner).Register(t, s.Shared("k")).ID
		named = nil
		for _, w := range rotated(t, s, third, body.Secret.Reveal(), `"activate":"now"`).Warnings {
			named = append(named, w.KeyID)
		}
		require.Equal(t, []string{first, second}, named)
		for _, id := range []string{first, second, third} {
			s.As(owner).RevokeKey(t, id)
		}
		_, named = warned(member, s.Own("p", secret))
		require.Equal(t, []string{own}, named, "a revoked key is not named")
	})
}

// A key of an earlier release has no fingerprints.
func TestTheSecretOfAKeyWithoutAFingerprintIsKnown(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		var ids models.IDs
		secret, now := "sk-"+s.Secret(), time.Now()
		k := models.Key{ID: ids.Next(models.KeyIDPrefix, now), CustomerID: aikeystest.Customer, ProjectID: aikeystest.Project, Provider: "openai", Name: "old", Version: 1, CreatedAt: now.UnixMicro(), CreatedBy: owner}
		sealed, err := s.Sealer.Seal(context.Background(), sealer.Binding{CustomerID: k.CustomerID, ProjectID: k.ProjectID, KeyID: k.ID, Provider: k.Provider, Version: 1}, sealer.NewSecret([]byte(secret)))
		require.NoError(t, err)
		k.Envelope, k.KEKID = sealed.Bytes, sealed.KEKID
		_, err = s.Store.RegisterKey(t.Context(), models.Caller{CustomerID: k.CustomerID, ProjectID: k.ProjectID, UserID: owner}, models.RoleOwner,
			models.Registration{Key: k, Event: models.Event{ID: ids.Next(models.EventIDPrefix, now), CustomerID: k.CustomerID, ProjectID: k.ProjectID}}, 0)
		require.NoError(t, err)
		_, lines := leaked(t, s, owner, false, secret)
		require.Empty(t, lines)
		reply := post(t, s, owner, project+"/aikeys/"+k.ID+"/rotate", rotateBody(secret, `"activate":"now"`))
		require.Equal(t, http.StatusConflict, reply.Status)
		opened := fetched(t, s)
		require.Equal(t, []any{"control_plane", "rotation", 1, owner}, []any{opened[0].DataPlaneID, opened[0].Reason, *opened[0].Version, *opened[0].UserID})
	})
}
