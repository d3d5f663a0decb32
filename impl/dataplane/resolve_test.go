package dataplane_test

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

func TestFetchedKeyByPolicyAndRegisteredKeys(t *testing.T) {
	table := map[pub.UserKeys]map[string]string{ // :: policy → keys there are → reason
		"allow":   {"none": "no_key", "project": "project_key", "own": "user_key", "both": "user_key"},
		"require": {"none": "user_key_required", "project": "user_key_required", "own": "user_key", "both": "user_key"},
		"forbid":  {"none": "no_key", "project": "user_keys_forbidden", "own": "no_key", "both": "user_keys_forbidden"},
	}
	// Each presence of keys has a provider to itself.
	providers := map[string]string{"none": "openai", "project": "deepseek", "own": "mistral", "both": "cohere"}
	each(t, func(t *testing.T, s *service) {
		dp, token := s.dataPlane(), s.credential(member)
		projects := map[string]held{"project": s.shared("deepseek"), "both": s.shared("cohere")}
		own := map[string]held{"own": s.own(member, "mistral"), "both": s.own(member, "cohere")}
		for _, provider := range providers { // which serve nobody but their users
			s.own(other, provider)
			s.own(owner, provider)
		}
		for policy, row := range table {
			s.policy(pub.PolicyRequest{UserKeys: &policy})
			for presence, reason := range row {
				t.Run(string(policy)+", keys: "+presence, func(t *testing.T) {
					reply := fetch(t, dp, forCaller(token, providers[presence]))
					switch reason {
					case "no_key":
						requireRefused(t, reply, http.StatusNotFound, "no-key")
					case "user_key_required":
						requireRefused(t, reply, http.StatusNotFound, "user-key-required")
					case "user_key":
						requireKey(t, reply, own[presence], reason)
					default:
						requireKey(t, reply, projects[presence], reason)
					}
				})
			}
		}
	})
}

func TestABadKeyIsPassedOverOnlyWhereThePolicySaysSo(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		project, older, newest := s.shared("openai"), s.own(member, "openai"), s.own(member, "openai")
		ask := func() answeredBy { return answered(t, s, dp, "openai") }
		nextKey := pub.OnBadKey("next_key")
		report(t, dp, newest.ID, true, time.Second)
		require.Equal(t, answeredBy{newest.ID, "user_key"}, ask(), "fail is the default")
		s.policy(pub.PolicyRequest{OnBadKey: &nextKey})
		require.Equal(t, answeredBy{older.ID, "next_key"}, ask())
		report(t, dp, older.ID, true, 0)
		require.Equal(t, answeredBy{project.ID, "next_key"}, ask())
		report(t, dp, project.ID, true, 0)
		require.Equal(t, answeredBy{newest.ID, "user_key"}, ask(), "where all are bad, the first serves after all")
		report(t, dp, older.ID, false, 0)
		require.Equal(t, answeredBy{older.ID, "next_key"}, ask(), "used with success, it is bad no longer")
		report(t, dp, newest.ID, true, 6*time.Minute)
		require.Equal(t, answeredBy{older.ID, "next_key"}, ask(), "an older report takes nothing back")
	})
}

// answeredBy is which key serves, empty for none, and why.
type answeredBy struct{ keyID, reason string }

// answered returns what a fetch for the member does.
func answered(t *testing.T, s *service, dp *dataPlane, provider string) answeredBy {
	t.Helper()
	return fetched(t, s, dp, member, provider)
}

// fetched fetches for a user by their credential and by their name, which must do the same.
func fetched(t *testing.T, s *service, dp *dataPlane, user, provider string) answeredBy {
	t.Helper()
	byName, byToken := fetch(t, dp, forUser(web, user, provider)), fetch(t, dp, forCaller(s.credential(user), provider))
	require.Equal(t, byName.StatusCode(), byToken.StatusCode())
	if byName.JSON200 != nil {
		require.Equal(t, byName.JSON200.KeyID, byToken.JSON200.KeyID)
		require.Equal(t, byName.JSON200.Reason, byToken.JSON200.Reason)
		return answeredBy{byName.JSON200.KeyID, byName.JSON200.Reason}
	}
	require.Equal(t, http.StatusNotFound, byName.StatusCode(), "%s", byName.Body)
	return answeredBy{"", s.records(acme, web)[0].Reason}
}

// Over many states at random: the public dry run says what a fetch then does.
func TestResolveSaysWhatAFetchDoes(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		seed := uint64(time.Now().UnixNano())
		t.Log("seed", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		providers := []string{"openai", "mistral"}
		var active []pub.Key
		seen := map[string]int{}
		const steps, enough, most = 25, 4, 500
		for i := 0; i < steps || len(seen) < enough && i < most; i++ {
			active = step(t, s, dp, random, providers, active)
			for _, user := range []string{owner, member} {
				for _, provider := range providers {
					resolved, err := s.public.As(user).ResolveKeyWithResponse(t.Context(), aikeystest.Self, aikeystest.Self,
						&pub.ResolveKeyParams{Provider: provider})
					require.NoError(t, err)
					require.Equal(t, http.StatusOK, resolved.StatusCode())
					want := answeredBy{reason: resolved.JSON200.Reason}
					if resolved.JSON200.Key != nil {
						want.keyID = resolved.JSON200.Key.ID
					}
					require.Equal(t, want, fetched(t, s, dp, user, provider))
					seen[want.reason]++
				}
			}
		}
		require.GreaterOrEqual(t, len(seen), enough, "the states differ: %v", seen)
	})
}

// step changes the project a little, and returns the keys that are active then.
func step(t *testing.T, s *service, dp *dataPlane, random *rand.Rand, providers []string, active []pub.Key) []pub.Key {
	t.Helper()
	provider := providers[random.IntN(len(providers))]
	if len(active) > 0 && random.IntN(3) > 0 {
		i := random.IntN(len(active))
		switch random.IntN(5) {
		case 0:
			user := owner
			if active[i].UserScope {
				user = active[i].CreatedBy
			}
			s.public.As(user).RevokeKey(t, active[i].ID)
			return append(active[:i:i], active[i+1:]...)
		default:
			report(t, dp, active[i].ID, random.IntN(3) > 0, time.Duration(random.IntN(1000))*time.Millisecond)
			return active
		}
	}
	switch random.IntN(5) {
	case 0:
		return append(active, s.shared(provider).Key)
	case 1:
		return append(active, s.own(member, provider).Key)
	case 2:
		return append(active, s.own(owner, provider).Key)
	default:
		userKeys := []pub.UserKeys{"allow", "allow", "require", "forbid"}[random.IntN(4)]
		onBad := []pub.OnBadKey{"fail", "next_key", "next_key"}[random.IntN(3)]
		s.policy(pub.PolicyRequest{UserKeys: &userKeys, OnBadKey: &onBad})
		return active
	}
}
