package resolution_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/models"
)

const (
	now      = int64(1_000_000_000_000)
	provider = "openai"
)

// keys are a user's and a project's, the newest first. A key's id is "own" or "project" and its place.
type keys struct {
	own, project []models.Key
	err          error
	asked        int
}

// Candidates implements serving.Keys.
func (k *keys) Candidates(_ context.Context, _ models.Caller, asked string) (own, project []models.Key, err error) {
	k.asked++
	if asked != provider {
		return nil, nil, errors.New("another provider")
	}
	return k.own, k.project, k.err
}

// newest is what a fetch's first statement finds.
func (k *keys) newest() (found models.Serving) {
	if len(k.own) > 0 {
		found.Own = k.own[0]
	}
	if len(k.project) > 0 {
		found.Project = k.project[0]
	}
	return found
}

func (k *keys) resolve(t require.TestingT, policy models.Policy) resolution.Choice {
	got, err := resolution.Resolve(context.Background(), k, models.Caller{UserID: "mia"}, provider, policy, k.newest(), now)
	require.NoError(t, err)
	return got
}

// parse makes keys of a text such as "gb": one good, and a bad one that is older.
func parse(scope, states string) []models.Key {
	var made []models.Key
	for i, state := range strings.Split(states, "") {
		k := models.Key{ID: scope + string(rune('0'+i))}
		if state == "b" {
			k.LastFailureAt = now - 1
		}
		made = append(made, k)
	}
	return made
}

func newKeys(own, project string) *keys {
	return &keys{own: parse("own", own), project: parse("project", project)}
}

func policyOf(userKeys models.UserKeys, onBad models.OnBadKey) models.Policy {
	return models.Policy{UserKeys: userKeys, OnBadKey: onBad}
}

// Each line: the user's own keys and the project's, g for good and b for bad, the newest first; then what serves under
// allow, require and forbid, with on_bad_key fail and with next_key where that differs.
const table = `
own  project  allow                  require             forbid
-    -        -:no_key               -:user_key_required -:no_key
-    g        project0:project_key   -:user_key_required project0:user_keys_forbidden
-    b        project0:project_key   -:user_key_required project0:user_keys_forbidden
-    bg       project0:project_key>1 -:user_key_required project0:user_keys_forbidden>1
-    bb       project0:project_key   -:user_key_required project0:user_keys_forbidden
-    bbg      project0:project_key>2 -:user_key_required project0:user_keys_forbidden>2
g    -        own0:user_key          own0:user_key       -:no_key
g    g        own0:user_key          own0:user_key       project0:user_keys_forbidden
g    b        own0:user_key          own0:user_key       project0:user_keys_forbidden
g    bg       own0:user_key          own0:user_key       project0:user_keys_forbidden>1
gb   -        own0:user_key          own0:user_key       -:no_key
b    -        own0:user_key          own0:user_key       -:no_key
b    g        own0:user_key>project0 own0:user_key       project0:user_keys_forbidden
b    b        own0:user_key          own0:user_key       project0:user_keys_forbidden
b    bg       own0:user_key>project1 own0:user_key       project0:user_keys_forbidden>1
bg   -        own0:user_key>1        own0:user_key>1     -:no_key
bg   g        own0:user_key>1        own0:user_key>1     project0:user_keys_forbidden
bg   b        own0:user_key>1        own0:user_key>1     project0:user_keys_forbidden
bb   g        own0:user_key>project0 own0:user_key       project0:user_keys_forbidden
bb   bb       own0:user_key          own0:user_key       project0:user_keys_forbidden
bbg  g        own0:user_key>2        own0:user_key>2     project0:user_keys_forbidden
`

// expected reads an entry of the table: KEY:REASON, and after > the key, or its place, that next_key has serve.
func expected(entry string) (plain, next resolution.Choice) {
	first, other, differs := strings.Cut(entry, ">")
	id, reason, _ := strings.Cut(first, ":")
	plain.Reason = resolution.Reason(reason)
	if id != "-" {
		plain.Key.ID = id
	}
	if !differs {
		return plain, plain
	}
	if len(other) == 1 {
		other = strings.TrimRight(id, "0") + other
	}
	return plain, resolution.Choice{Key: models.Key{ID: other}, Reason: resolution.NextKey}
}

func TestWhichKeyServesForEveryPolicyPresenceAndBadness(t *testing.T) {
	rows := strings.Split(strings.TrimSpace(table), "\n")
	policies := strings.Fields(rows[0])[2:]
	require.Equal(t, []string{"allow", "require", "forbid"}, policies)
	for _, row := range rows[1:] {
		cells := strings.Fields(row)
		require.Len(t, cells, 5)
		own, project := strings.Trim(cells[0], "-"), strings.Trim(cells[1], "-")
		for i, userKeys := range policies {
			t.Run(strings.Join([]string{"own " + cells[0], "project " + cells[1], userKeys}, ", "), func(t *testing.T) {
				plain, next := expected(cells[2+i])
				for onBad, want := range map[models.OnBadKey]resolution.Choice{models.OnBadKeyFail: plain, models.OnBadKeyNextKey: next} {
					got := newKeys(own, project).resolve(t, policyOf(models.UserKeys(userKeys), onBad))
					require.Equal(t, want.Key.ID, got.Key.ID, onBad)
					require.Equal(t, want.Reason, got.Reason, onBad)
				}
			})
		}
	}
}

func TestWhatNoKeyAmountsTo(t *testing.T) {
	require.NoError(t, resolution.Choice{Key: models.Key{ID: "k"}, Reason: resolution.UserKey}.Err())
	require.ErrorIs(t, resolution.Choice{Reason: resolution.NoKey}.Err(), resolution.ErrNoKey)
	require.ErrorIs(t, resolution.Choice{Reason: resolution.UserKeyRequired}.Err(), resolution.ErrUserKeyRequired)
}

func TestTheOtherKeysAreReadOnlyWhereTheyCouldServe(t *testing.T) {
	for name, tc := range map[string]struct {
		own   string
		onBad models.OnBadKey
		asked int
	}{
		"a good key":                  {"g", models.OnBadKeyNextKey, 0},
		"a bad one that is to fail":   {"bg", models.OnBadKeyFail, 0},
		"a bad one with others":       {"bg", models.OnBadKeyNextKey, 1},
		"a bad one, the policy's own": {"b", models.OnBadKeyNextKey, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeys(tc.own, "")
			k.resolve(t, policyOf(models.UserKeysAllow, tc.onBad))
			require.Equal(t, tc.asked, k.asked)
		})
	}
}

func TestWithoutTheOtherKeysThereIsNoChoice(t *testing.T) {
	k := newKeys("bg", "")
	k.err = models.ErrUnavailable
	_, err := resolution.Resolve(t.Context(), k, models.Caller{}, provider, policyOf(models.UserKeysAllow, models.OnBadKeyNextKey), k.newest(), now)
	require.ErrorIs(t, err, models.ErrUnavailable)
}

// Between the first statement and the second, keys may have come and gone.
func TestTheOtherKeysAreJudgedAsTheyAreWhenTheyAreRead(t *testing.T) {
	policy := policyOf(models.UserKeysAllow, models.OnBadKeyNextKey)
	for name, tc := range map[string]struct {
		later *keys
		id    string
		want  resolution.Reason
	}{
		"all revoked":                  {newKeys("", ""), "", resolution.NoKey},
		"the user's own revoked":       {newKeys("", "g"), "project0", resolution.ProjectKey},
		"a good one of theirs is new":  {newKeys("gb", "g"), "own0", resolution.UserKey},
		"a bad one of theirs is new":   {newKeys("bbg", "g"), "own2", resolution.NextKey},
		"used with success since then": {newKeys("g", "g"), "own0", resolution.UserKey},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolution.Resolve(t.Context(), tc.later, models.Caller{}, provider, policy, newKeys("b", "").newest(), now)
			require.NoError(t, err)
			require.Equal(t, tc.id, got.Key.ID)
			require.Equal(t, tc.want, got.Reason)
		})
	}
}

func TestThePolicyOfTheProviderCounts(t *testing.T) {
	policy := models.Policy{UserKeys: models.UserKeysForbid, UserKeysByProvider: map[string]models.UserKeys{provider: models.UserKeysRequire}}
	require.Equal(t, resolution.UserKey, newKeys("g", "g").resolve(t, policy).Reason)
	require.Equal(t, resolution.UserKeyRequired, newKeys("", "g").resolve(t, policy).Reason)
}

// Whatever the keys: the policy is kept, nothing falls back where the policy says fail, and a guess refuses nobody.
func TestTheRuleKeepsToThePolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		states := rapid.StringMatching(`[gb]{0,5}`)
		k := newKeys(states.Draw(t, "own"), states.Draw(t, "project"))
		userKeys := rapid.SampledFrom([]models.UserKeys{models.UserKeysAllow, models.UserKeysRequire, models.UserKeysForbid}).Draw(t, "policy")
		plain := k.resolve(t, policyOf(userKeys, models.OnBadKeyFail))
		next := k.resolve(t, policyOf(userKeys, models.OnBadKeyNextKey))
		scope := strings.TrimRight(next.Key.ID, "012345")
		require.True(t, userKeys != models.UserKeysRequire || scope != "project")
		require.True(t, userKeys != models.UserKeysForbid || scope != "own")
		require.Equal(t, plain.Key.ID == "", next.Key.ID == "", "whether one serves does not depend on how keys fare")
		require.NotEqual(t, resolution.NextKey, plain.Reason)
		if next.Reason == resolution.NextKey {
			require.True(t, plain.Key.Bad(now))
			require.False(t, next.Key.Bad(now))
		} else {
			require.Equal(t, plain, next)
		}
	})
}
