package resolution_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/models"
)

// arranged are keys of a project with their orders and weights, in the order in which the store returns them.
func arranged(orderAndWeight ...[2]int) models.Serving {
	found := models.Serving{All: true}
	for i, at := range orderAndWeight {
		found.Project = append(found.Project, models.Key{ID: fmt.Sprintf("project-%d", i), Order: at[0], Weight: at[1]})
	}
	return found
}

// choose returns what serves a user, and requires that Explain says the same.
func choose(t require.TestingT, user string, policy models.Policy, found models.Serving, limited ...string) outcome {
	asked := resolution.Request{Caller: models.Caller{UserID: user}, Provider: provider, Limited: limited, Now: now}
	choice, err := resolution.Resolve(context.Background(), &keys{}, asked, policy, found)
	require.NoError(t, err)
	var serving []string
	for _, e := range resolution.Explain(choice, asked, policy, found, models.Serving{}) {
		if e.Serves {
			require.Equal(t, choice.Reason, e.Reason)
			serving = append(serving, e.Key.ID)
		}
	}
	if choice.Key.ID != "" {
		require.Equal(t, []string{choice.Key.ID}, serving)
	} else {
		require.Empty(t, serving)
	}
	return outcome{choice.Key.ID, choice.Reason}
}

func TestTheLowestOrderServes(t *testing.T) {
	fail := policyOf(models.UserKeysAllow, models.OnBadKeyFail)
	require.Equal(t, outcome{"project-0", resolution.ByOrder}, choose(t, "mia", fail, arranged([2]int{-1, 0}, [2]int{0, 0})))
	require.Equal(t, outcome{"project-0", resolution.ProjectKey}, choose(t, "mia", fail, arranged([2]int{5, 0}, [2]int{5, 0})), "the newest")
	found := arranged([2]int{1, 0}, [2]int{2, 0}, [2]int{3, 0})
	found.Project[0].LastFailureAt, found.Project[1].LastFailureAt = now-1, now-1
	require.Equal(t, outcome{"project-0", resolution.ByOrder}, choose(t, "mia", fail, found))
	require.Equal(t, outcome{"project-2", resolution.NextKey}, choose(t, "mia", policyOf(models.UserKeysAllow, models.OnBadKeyNextKey), found))
	found.Own = []models.Key{{ID: "own", UserID: "mia", Order: 9}}
	require.Equal(t, outcome{"own", resolution.UserKey}, choose(t, "mia", fail, found), "an order counts within a scope")
	require.Equal(t, outcome{"project-0", resolution.ByOrder}, choose(t, "mia", policyOf(models.UserKeysForbid, models.OnBadKeyFail), found))
}

func TestWeightsShareCallersAndEachKeepsTheirKey(t *testing.T) {
	fail := policyOf(models.UserKeysAllow, models.OnBadKeyFail)
	three, served := arranged([2]int{0, 6}, [2]int{0, 3}, [2]int{0, 1}, [2]int{0, 0}), map[string]int{}
	const users = 10_000
	for i := range users {
		user := fmt.Sprint("user-", i)
		got := choose(t, user, fail, three)
		require.Equal(t, resolution.ByWeight, got.reason)
		served[got.id]++
		require.Equal(t, got, choose(t, user, fail, three))
		two := models.Serving{Project: three.Project[:2], All: true}
		if got.id != "project-2" {
			require.Equal(t, got.id, choose(t, user, fail, two).id, "a key that goes moves only its own callers")
		}
	}
	for id, share := range map[string]float64{"project-0": 0.6, "project-1": 0.3, "project-2": 0.1} {
		require.InDelta(t, share, float64(served[id])/users, 0.02, id)
	}
	require.Equal(t, outcome{"project-0", resolution.ProjectKey}, choose(t, "mia", fail, arranged([2]int{0, 0}, [2]int{0, 5}, [2]int{0, 5})), "a newer key without a weight takes over")
	require.Equal(t, outcome{"project-0", resolution.ProjectKey}, choose(t, "mia", fail, arranged([2]int{0, 5}, [2]int{0, 0})), "there is nobody to share with")
}

func TestExplainSaysOfEveryKeyWhyItDoesNotServe(t *testing.T) {
	policy := policyOf(models.UserKeysForbid, models.OnBadKeyNextKey)
	asked := resolution.Request{Caller: models.Caller{UserID: "mia"}, Provider: provider, Now: now}
	found := arranged([2]int{1, 0}, [2]int{2, 1}, [2]int{2, 1}, [2]int{3, 0})
	found.Project[0].LastFailureAt = now - 1
	found.Own = []models.Key{{ID: "own", UserID: "mia"}}
	held := models.Serving{Project: []models.Key{{ID: "disabled", DisabledAt: 1}, {ID: "expired", ExpiresAt: 1}}}
	choice, err := resolution.Resolve(t.Context(), &keys{}, asked, policy, found)
	require.NoError(t, err)
	reasons := map[string]resolution.Reason{}
	for _, e := range resolution.Explain(choice, asked, policy, found, held) {
		require.NotContains(t, reasons, e.Key.ID)
		reasons[e.Key.ID] = e.Reason
	}
	other := map[string]string{"project-1": "project-2", "project-2": "project-1"}[choice.Key.ID]
	require.Equal(t, map[string]resolution.Reason{
		"project-0": resolution.RefusedByProvider, choice.Key.ID: resolution.NextKey, other: resolution.NotFirst, "project-3": resolution.NotFirst,
		"own": resolution.UserKeysForbidden, "disabled": resolution.KeyDisabled, "expired": resolution.KeyExpired,
	}, reasons)
}

// For any keys, exactly the choice is explained as serving, and the order is kept unless a key is bad.
func TestOrderInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		found := models.Serving{All: true}
		order := 0
		for i := range rapid.IntRange(1, 6).Draw(t, "keys") {
			order += rapid.IntRange(0, 1).Draw(t, "step")
			k := models.Key{ID: fmt.Sprint("k", i), Order: order, Weight: rapid.IntRange(0, 2).Draw(t, "weight")}
			if rapid.Bool().Draw(t, "bad") {
				k.LastFailureAt = now - 1
			}
			found.Project = append(found.Project, k)
		}
		user := rapid.SampledFrom([]string{"mia", "moe", ""}).Draw(t, "user")
		serving := func(onBad models.OnBadKey) (k models.Key) {
			id := choose(t, user, policyOf(models.UserKeysAllow, onBad), found).id
			for _, k = range found.Project {
				if k.ID == id {
					return k
				}
			}
			return models.Key{}
		}
		require.Equal(t, found.Project[0].Order, serving(models.OnBadKeyFail).Order)
		next := serving(models.OnBadKeyNextKey)
		for _, k := range found.Project {
			require.False(t, k.Order < next.Order && !k.Bad(now) && next.Bad(now))
			require.False(t, k.Order < next.Order && !k.Bad(now), "a good key of a lower order comes first")
		}
	})
}

func TestAKeyOfOtherUsersIsPassedOver(t *testing.T) {
	fail, found := policyOf(models.UserKeysAllow, models.OnBadKeyFail), arranged([2]int{0, 0}, [2]int{0, 0})
	found.Project[0].Restrictions.Users = []string{"moe"}
	require.Equal(t, outcome{"project-0", resolution.ProjectKey}, choose(t, "moe", fail, found))
	require.Equal(t, outcome{"project-1", resolution.ProjectKey}, choose(t, "mia", fail, found))
	require.Equal(t, outcome{"project-1", resolution.ProjectKey}, choose(t, "", fail, found), "nobody in particular is none of its users")
	found.Project = found.Project[:1]
	require.Equal(t, outcome{"", resolution.KeyRestricted}, choose(t, "mia", fail, found))
	require.Equal(t, outcome{"", resolution.UserKeyRequired}, choose(t, "mia", policyOf(models.UserKeysRequire, models.OnBadKeyFail), found))
	require.ErrorIs(t, resolution.KeyRestricted.Err(), resolution.ErrKeyRestricted)
}

// badLimited describes keys, in order: b is bad, l is at a limit, x is both, and . is neither.
func badLimited(states string) (found models.Serving, limited []string) {
	found = arranged(make([][2]int, len(states))...)
	for i, state := range states {
		if k := &found.Project[i]; state == 'b' || state == 'x' {
			k.LastFailureAt = now - 1
		}
		if state == 'l' || state == 'x' {
			limited = append(limited, found.Project[i].ID)
		}
	}
	return found, limited
}

func TestTheNextKeyServesWhereTheFirstIsAtALimit(t *testing.T) {
	const project, next, nextLimited = resolution.ProjectKey, resolution.NextKey, resolution.NextKeyLimited
	type want struct {
		key    int
		reason resolution.Reason
	}
	for states, wants := range map[string][4]want{ // on_bad_key and on_limited: fail and fail, next_key and fail, fail and next_key, next_key twice
		".l":  {{0, project}, {0, project}, {0, project}, {0, project}},
		"l":   {{0, project}, {0, project}, {0, project}, {0, project}},
		"l.":  {{0, project}, {0, project}, {1, nextLimited}, {1, nextLimited}},
		"ll":  {{0, project}, {0, project}, {0, project}, {0, project}},
		"ll.": {{0, project}, {0, project}, {2, nextLimited}, {2, nextLimited}},
		"lb":  {{0, project}, {0, project}, {0, project}, {0, project}}, // never from a limit to a key that is refused
		"lb.": {{0, project}, {0, project}, {2, nextLimited}, {2, nextLimited}},
		"b.":  {{0, project}, {1, next}, {0, project}, {1, next}},
		"bl":  {{0, project}, {1, next}, {0, project}, {1, next}}, // a good key at a limit rather than a bad one
		"bl.": {{0, project}, {1, next}, {0, project}, {2, next}},
		"x.":  {{0, project}, {1, next}, {1, nextLimited}, {1, next}},
		"xl":  {{0, project}, {1, next}, {0, project}, {1, next}},
	} {
		found, limited := badLimited(states)
		for i, want := range wants {
			policy := policyOf(models.UserKeysAllow, []models.OnBadKey{models.OnBadKeyFail, models.OnBadKeyNextKey}[i%2])
			policy.OnLimited = []models.OnLimited{models.OnLimitedFail, models.OnLimitedNextKey}[i/2]
			require.Equal(t, outcome{fmt.Sprint("project-", want.key), want.reason}, choose(t, "mia", policy, found, limited...), "%s %d", states, i)
		}
	}
}

func TestALimitLeadsToNoKeyThatThePolicyForbids(t *testing.T) {
	found := arranged([2]int{0, 0})
	found.Own = []models.Key{{ID: "own", UserID: "mia"}}
	for userKeys, want := range map[models.UserKeys]outcome{
		models.UserKeysAllow: {"project-0", resolution.NextKeyLimited}, models.UserKeysRequire: {"own", resolution.UserKey},
		models.UserKeysForbid: {"project-0", resolution.UserKeysForbidden},
	} {
		policy := models.Policy{UserKeys: userKeys, OnLimited: models.OnLimitedNextKey}
		require.Equal(t, want, choose(t, "mia", policy, found, "own", "byok_absent"))
	}
}

// The callers of a limited key go to the others by weight, each always to the same one; those of other keys stay.
func TestALimitMovesOnlyTheCallersOfItsKey(t *testing.T) {
	policy := models.Policy{UserKeys: models.UserKeysAllow, OnLimited: models.OnLimitedNextKey}
	found, moved := arranged([2]int{0, 2}, [2]int{0, 1}, [2]int{0, 1}), map[string]int{}
	for i := range 1_000 {
		user := fmt.Sprint("user-", i)
		before, now := choose(t, user, policy, found), choose(t, user, policy, found, "project-0")
		if before.id != "project-0" {
			require.Equal(t, before, now)
			continue
		}
		moved[now.id]++
		require.Equal(t, resolution.NextKeyLimited, now.reason)
		require.Equal(t, now, choose(t, user, policy, found, "project-0"))
	}
	require.Len(t, moved, 2)
	require.Greater(t, min(moved["project-1"], moved["project-2"]), 150)
}
