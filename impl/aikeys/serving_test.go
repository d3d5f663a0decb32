package aikeys_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func resolve(t *testing.T, s *aikeystest.Service, user, provider string) gen.ResolveResponse {
	t.Helper()
	reply := get(t, s, user, project+"/resolve?provider="+provider)
	require.Equal(t, http.StatusOK, reply.Status)
	return decode[gen.ResolveResponse](t, reply)
}

func setPolicy(t *testing.T, s *aikeystest.Service, body map[string]any) gen.Policy {
	t.Helper()
	reply := put(t, s, owner, project+"/policy", body)
	require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
	return decode[gen.PolicyResponse](t, reply).Policy
}

// Every policy with every presence of keys: who is served with what, and why.
func TestResolveKey(t *testing.T) {
	table := map[string]map[string]string{ // :: policy → keys there are → reason
		"allow":   {"none": "no_key", "project": "project_key", "own": "user_key", "both": "user_key"},
		"require": {"none": "user_key_required", "project": "user_key_required", "own": "user_key", "both": "user_key"},
		"forbid":  {"none": "no_key", "project": "user_keys_forbidden", "own": "no_key", "both": "user_keys_forbidden"},
	}
	scopes := map[string]string{"user_key": "user", "project_key": "project", "user_keys_forbidden": "project"}
	// Each presence of keys has a provider to itself.
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
		for _, provider := range providers { // which serve nobody but their users
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
						want := gen.ResolveResponse{Provider: provider, Reason: reason, UserKeys: gen.UserKeys(policy), OnBadKey: "fail"}
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
		require.Equal(t, "no_key", resolve(t, s, member, "openai").Reason)
		third := s.As(owner).Register(t, s.Shared("third"))
		require.Equal(t, third.ID, resolve(t, s, member, "openai").Key.ID)
	})
}

// The order of registering tells which key is the newest, not a clock, which may be set back.
func TestResolveKeyAfterTheClockWasSetBack(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newClock()
		s := aikeystest.Start(t, aikeystest.Options{Store: modelstest.NewStore(t, e), Now: c.Now})
		older := s.As(owner).Register(t, s.Shared("older"))
		c.Advance(-time.Hour)
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
			t.Helper()
			return decode[gen.PolicyResponse](t, get(t, s, user, project+"/policy")).Policy
		}
		none := gen.UserKeysByProvider{}
		t.Run("the default, before one is written", func(t *testing.T) {
			require.Equal(t, gen.Policy{UserKeys: "allow", UserKeysByProvider: none, OnBadKey: "fail"}, read(member))
		})
		t.Run("written and read", func(t *testing.T) {
			before := time.Now().Truncate(time.Microsecond)
			exceptions := gen.UserKeysByProvider{"anthropic": "require", "openai": "forbid"}
			set := setPolicy(t, s, map[string]any{"user_keys": "require", "user_keys_by_provider": exceptions, "on_bad_key": "next_key"})
			by := owner
			require.WithinRange(t, *set.UpdatedAt, before, time.Now())
			require.Equal(t, gen.Policy{
				UserKeys: "require", UserKeysByProvider: exceptions, OnBadKey: "next_key", UpdatedAt: set.UpdatedAt, UpdatedBy: &by,
			}, set)
			require.Equal(t, set, read(member))
			require.Equal(t, gen.OnBadKey("next_key"), resolve(t, s, member, "openai").OnBadKey)
		})
		t.Run("what is left out returns to its default", func(t *testing.T) {
			set := setPolicy(t, s, map[string]any{"on_bad_key": "next_key"})
			require.Equal(t, gen.Policy{
				UserKeys: "allow", UserKeysByProvider: none, OnBadKey: "next_key", UpdatedAt: set.UpdatedAt, UpdatedBy: set.UpdatedBy,
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
			require.Equal(t, http.StatusForbidden, put(t, s, member, project+"/policy", map[string]any{"user_keys": "allow"}).Status)
			require.Equal(t, before, read(member))
		})
	})
}

// refuse has a provider refuse a key, or accept it, as a data plane reports that.
func refuse(t *testing.T, s *aikeystest.Service, id string, refused bool) {
	t.Helper()
	r, now := models.KeyReport{KeyID: id}, time.Now().UnixMicro()
	if refused {
		r.FailedAt, r.FailureStatus = now, http.StatusUnauthorized
	} else {
		r.UsedAt = now
	}
	var ids models.IDs
	require.NoError(t, s.Store.ReportKeys(t.Context(), models.DataPlane{}, []models.KeyReport{r}, func(k models.Key) models.Event {
		return models.Event{
			ID: ids.Next(models.EventIDPrefix, time.Now()), CustomerID: k.CustomerID, ProjectID: k.ProjectID, ScopeUserID: k.UserID,
			Type: models.EventKeyFailing, Outcome: models.OutcomeAllowed, At: now, ActorMethod: "data_plane", KeyID: k.ID,
		}
	}))
}

func TestResolveKeyOnBadKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		shared := s.As(owner).Register(t, s.Shared("shared"))
		older := s.As(member).Register(t, s.Own("older"))
		newest := s.As(member).Register(t, s.Own("newest"))
		requireServes := func(key gen.Key, reason, scope string) {
			t.Helper()
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

func TestKeyLastUse(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		require.Nil(t, key.LastUsedAt)
		require.Nil(t, key.LastFailure)
		before := time.Now().Truncate(time.Microsecond)
		refuse(t, s, key.ID, false)
		refuse(t, s, key.ID, true)
		got := decode[gen.GetResponse](t, get(t, s, member, project+"/aikeys/"+key.ID)).Key
		require.WithinRange(t, *got.LastUsedAt, before, time.Now())
		require.WithinRange(t, got.LastFailure.At, *got.LastUsedAt, time.Now())
		require.Equal(t, http.StatusUnauthorized, got.LastFailure.Status)
		require.Equal(t, []gen.Key{got}, list(t, s, member))
	})
}
