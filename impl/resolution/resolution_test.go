package resolution_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/models"
)

const (
	now      = int64(1_000_000_000_000) // microseconds
	provider = "openai"
	good     = true
	bad      = false
)

// keys are the active keys of a user and of their project, newest first. The ids are own-0, own-1, … and project-0, ….
type keys struct {
	own, project []models.Key
	revoked      map[string]models.Key // by scope
	err          error
	reads        int
}

// LastStopped implements resolution.Keys.
func (k *keys) LastStopped(_ context.Context, _ models.Caller, _ string, scopes []string, _ int64) (last models.Key, err error) {
	for _, scope := range scopes {
		if key := k.revoked[scope]; key.RevokedAt > last.RevokedAt {
			last = key
		}
	}
	return last, k.err
}

// Candidates implements resolution.Keys.
func (k *keys) Candidates(_ context.Context, _ models.Caller, asked string, _ int64) (models.Serving, error) {
	k.reads++
	if asked != provider {
		return models.Serving{}, fmt.Errorf("asked for %s", asked)
	}
	return models.Serving{Own: k.own, Project: k.project, All: true}, k.err
}

// newest returns the newest key of each scope.
func (k *keys) newest() models.Serving {
	return models.Serving{Own: k.own[:min(1, len(k.own))], Project: k.project[:min(1, len(k.project))]}
}

// newKeys returns keys that are good or bad, newest first.
func newKeys(own, project []bool) *keys {
	makeKeys := func(scope string, states []bool) (made []models.Key) {
		for i, isGood := range states {
			key := models.Key{ID: fmt.Sprintf("%s-%d", scope, i)}
			if !isGood {
				key.LastFailureAt = now - 1
			}
			made = append(made, key)
		}
		return made
	}
	return &keys{own: makeKeys("own", own), project: makeKeys("project", project)}
}

// outcome is the id of the key that serves ("" for none) and the reason.
type outcome struct {
	id     string
	reason resolution.Reason
}

func (k *keys) resolve(t require.TestingT, policy models.Policy) outcome {
	got, err := resolution.Resolve(context.Background(), k, resolution.Request{Caller: models.Caller{UserID: "mia"}, Provider: provider, Now: now}, policy, k.newest())
	require.NoError(t, err)
	return outcome{got.Key.ID, got.Reason}
}

func policyOf(userKeys models.UserKeys, onBad models.OnBadKey) models.Policy {
	return models.Policy{UserKeys: userKeys, OnBadKey: onBad}
}

func TestResolve(t *testing.T) {
	var (
		own     = outcome{"own-0", resolution.UserKey}
		project = outcome{"project-0", resolution.ProjectKey}
		forced  = outcome{"project-0", resolution.UserKeysForbidden}
		noKey   = outcome{"", resolution.NoKey}
		missing = outcome{"", resolution.UserKeyRequired}
		next    = func(id string) outcome { return outcome{id, resolution.NextKey} }
	)
	// The outcomes with on_bad_key fail, and with next_key.
	type pair struct{ fail, nextKey outcome }
	same := func(o outcome) pair { return pair{o, o} }

	for _, tc := range []struct {
		own, project           []bool // newest first
		allow, require, forbid pair
	}{
		{nil, nil, same(noKey), same(missing), same(noKey)},
		{nil, []bool{good}, same(project), same(missing), same(forced)},
		{nil, []bool{bad}, same(project), same(missing), same(forced)},
		{nil, []bool{bad, good}, pair{project, next("project-1")}, same(missing), pair{forced, next("project-1")}},
		{nil, []bool{bad, bad}, same(project), same(missing), same(forced)},
		{nil, []bool{bad, bad, good}, pair{project, next("project-2")}, same(missing), pair{forced, next("project-2")}},
		{[]bool{good}, nil, same(own), same(own), same(noKey)},
		{[]bool{good}, []bool{good}, same(own), same(own), same(forced)},
		{[]bool{good}, []bool{bad}, same(own), same(own), same(forced)},
		{[]bool{good}, []bool{bad, good}, same(own), same(own), pair{forced, next("project-1")}},
		{[]bool{good, bad}, nil, same(own), same(own), same(noKey)},
		{[]bool{bad}, nil, same(own), same(own), same(noKey)},
		{[]bool{bad}, []bool{good}, pair{own, next("project-0")}, same(own), same(forced)},
		{[]bool{bad}, []bool{bad}, same(own), same(own), same(forced)},
		{[]bool{bad}, []bool{bad, good}, pair{own, next("project-1")}, same(own), pair{forced, next("project-1")}},
		{[]bool{bad, good}, nil, pair{own, next("own-1")}, pair{own, next("own-1")}, same(noKey)},
		{[]bool{bad, good}, []bool{good}, pair{own, next("own-1")}, pair{own, next("own-1")}, same(forced)},
		{[]bool{bad, good}, []bool{bad}, pair{own, next("own-1")}, pair{own, next("own-1")}, same(forced)},
		{[]bool{bad, bad}, []bool{good}, pair{own, next("project-0")}, same(own), same(forced)},
		{[]bool{bad, bad}, []bool{bad, bad}, same(own), same(own), same(forced)},
		{[]bool{bad, bad, good}, []bool{good}, pair{own, next("own-2")}, pair{own, next("own-2")}, same(forced)},
	} {
		for userKeys, want := range map[models.UserKeys]pair{
			models.UserKeysAllow: tc.allow, models.UserKeysRequire: tc.require, models.UserKeysForbid: tc.forbid,
		} {
			t.Run(fmt.Sprintf("own %v, project %v, %s", tc.own, tc.project, userKeys), func(t *testing.T) {
				k := newKeys(tc.own, tc.project)
				require.Equal(t, want.fail, k.resolve(t, policyOf(userKeys, models.OnBadKeyFail)))
				require.Equal(t, want.nextKey, k.resolve(t, policyOf(userKeys, models.OnBadKeyNextKey)))
			})
		}
	}
	t.Run("the provider's own policy counts", func(t *testing.T) {
		policy := models.Policy{UserKeys: models.UserKeysForbid, UserKeysByProvider: map[string]models.UserKeys{provider: models.UserKeysRequire}}
		require.Equal(t, own, newKeys([]bool{good}, []bool{good}).resolve(t, policy))
		require.Equal(t, missing, newKeys(nil, []bool{good}).resolve(t, policy))
	})
}

// A revoked key is named only if no key serves, and if the policy would have let it serve.
func TestResolveNamesTheLastStoppedKey(t *testing.T) {
	own, project := models.Key{ID: "own", RevokedAt: 2}, models.Key{ID: "project", RevokedAt: 1}
	for policy, want := range map[models.UserKeys][2]string{ // with a revoked key of the user's own, and without
		models.UserKeysAllow: {"own", "project"}, models.UserKeysRequire: {"own", ""}, models.UserKeysForbid: {"project", "project"},
	} {
		resolve := func(k *keys, user string) resolution.Choice {
			choice, err := resolution.Resolve(t.Context(), k, resolution.Request{Caller: models.Caller{UserID: user}, Provider: provider, Now: now}, policyOf(policy, models.OnBadKeyFail), k.newest())
			require.NoError(t, err)
			return choice
		}
		both := map[string]models.Key{"mia": own, "": project}
		got := resolve(&keys{revoked: both}, "mia")
		require.Equal(t, resolution.Choice{Stopped: both[map[string]string{"own": "mia"}[want[0]]], Reason: resolution.KeyRevoked}, got, policy)
		require.ErrorIs(t, got.Reason.Err(), resolution.ErrKeyRevoked)
		require.Equal(t, want[1], resolve(&keys{revoked: map[string]models.Key{"": project}}, "mia").Stopped.ID, policy)
		require.Equal(t, want[1], resolve(&keys{revoked: both}, "").Stopped.ID, "a request of nobody in particular")
		serving := newKeys([]bool{good}, []bool{good})
		serving.revoked = both
		require.Empty(t, resolve(serving, "mia").Stopped.ID)
	}
}

func TestReasonErr(t *testing.T) {
	require.NoError(t, resolution.UserKey.Err())
	require.ErrorIs(t, resolution.NoKey.Err(), resolution.ErrNoKey)
	require.ErrorIs(t, resolution.UserKeyRequired.Err(), resolution.ErrUserKeyRequired)
}

func TestResolveReadsAllKeysOnlyIfNeeded(t *testing.T) {
	for name, tc := range map[string]struct {
		own   []bool
		onBad models.OnBadKey
		reads int
	}{
		"a good key":                {[]bool{good}, models.OnBadKeyNextKey, 0},
		"a bad key that is to fail": {[]bool{bad, good}, models.OnBadKeyFail, 0},
		"a bad key with others":     {[]bool{bad, good}, models.OnBadKeyNextKey, 1},
		"a bad key alone":           {[]bool{bad}, models.OnBadKeyNextKey, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeys(tc.own, nil)
			k.resolve(t, policyOf(models.UserKeysAllow, tc.onBad))
			require.Equal(t, tc.reads, k.reads)
		})
	}
	t.Run("and fails if they can't be read", func(t *testing.T) {
		k := newKeys([]bool{bad, good}, nil)
		k.err = models.ErrUnavailable
		policy := policyOf(models.UserKeysAllow, models.OnBadKeyNextKey)
		_, err := resolution.Resolve(t.Context(), k, resolution.Request{Provider: provider, Now: now}, policy, k.newest())
		require.ErrorIs(t, err, models.ErrUnavailable)
	})
}

// Keys may be registered, revoked and used between the read of the newest keys and the read of all keys.
func TestResolveAfterKeysChanged(t *testing.T) {
	policy := policyOf(models.UserKeysAllow, models.OnBadKeyNextKey)
	newest := newKeys([]bool{bad}, nil).newest()
	for name, tc := range map[string]struct {
		later *keys
		want  outcome
	}{
		"all were revoked":             {newKeys(nil, nil), outcome{"", resolution.NoKey}},
		"the user's own was revoked":   {newKeys(nil, []bool{good}), outcome{"project-0", resolution.ProjectKey}},
		"a good own key is new":        {newKeys([]bool{good, bad}, []bool{good}), outcome{"own-0", resolution.UserKey}},
		"a bad own key is new":         {newKeys([]bool{bad, bad, good}, []bool{good}), outcome{"own-2", resolution.NextKey}},
		"the key was used and is good": {newKeys([]bool{good}, []bool{good}), outcome{"own-0", resolution.UserKey}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolution.Resolve(t.Context(), tc.later, resolution.Request{Provider: provider, Now: now}, policy, newest)
			require.NoError(t, err)
			require.Equal(t, tc.want, outcome{got.Key.ID, got.Reason})
		})
	}
}

// For any keys, Resolve keeps to the policy, falls back only if the policy says so, and refuses nobody because a key looks bad.
func TestResolveInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		states := rapid.SliceOfN(rapid.Bool(), 0, 5)
		k := newKeys(states.Draw(t, "own"), states.Draw(t, "project"))
		userKeys := rapid.SampledFrom([]models.UserKeys{models.UserKeysAllow, models.UserKeysRequire, models.UserKeysForbid}).Draw(t, "policy")
		fail := k.resolve(t, policyOf(userKeys, models.OnBadKeyFail))
		next := k.resolve(t, policyOf(userKeys, models.OnBadKeyNextKey))
		require.False(t, userKeys == models.UserKeysRequire && strings.HasPrefix(next.id, "project"))
		require.False(t, userKeys == models.UserKeysForbid && strings.HasPrefix(next.id, "own"))
		require.Equal(t, fail.id == "", next.id == "", "whether a key serves does not depend on how keys fare")
		require.NotEqual(t, resolution.NextKey, fail.reason)
		if next.reason != resolution.NextKey {
			require.Equal(t, fail, next)
			return
		}
		isBad := map[string]bool{}
		for _, key := range append(k.own, k.project...) {
			isBad[key.ID] = key.Bad(now)
		}
		require.True(t, isBad[fail.id])
		require.False(t, isBad[next.id])
	})
}

// arranged are keys of a project with their orders and weights, in the order in which the store returns them.
func arranged(orderAndWeight ...[2]int) models.Serving {
	found := models.Serving{All: true}
	for i, at := range orderAndWeight {
		found.Project = append(found.Project, models.Key{ID: fmt.Sprintf("project-%d", i), Order: at[0], Weight: at[1]})
	}
	return found
}

// choose returns the outcome for a user, and requires that Explain says the same.
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

// For any keys, Explain names only the choice as serving, and keeps the order unless a key is bad.
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
		"lb":  {{0, project}, {0, project}, {0, project}, {0, project}}, // a limited key never gives way to a bad one
		"lb.": {{0, project}, {0, project}, {2, nextLimited}, {2, nextLimited}},
		"b.":  {{0, project}, {1, next}, {0, project}, {1, next}},
		"bl":  {{0, project}, {1, next}, {0, project}, {1, next}}, // a good key at a limit comes before a bad one
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

// If a key is at a limit, its callers are divided among the other keys by weight. Each caller always gets the same key,
// and the callers of the other keys keep their keys.
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
