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
	// What serves if a bad key is to fail, and what serves if the next key is to take over.
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

// A revoked key counts only if none serves, and if the policy would have let it serve.
func TestResolveNamesTheLastStoppedKey(t *testing.T) {
	own, project := models.Key{ID: "own", RevokedAt: 2}, models.Key{ID: "project", RevokedAt: 1}
	for policy, want := range map[models.UserKeys][2]string{ // with an own key revoked, and without
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

// Keys may be registered, revoked and used between the read of the newest keys and the read of all.
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
