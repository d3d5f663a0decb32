package resolution

import "github.com/agentrouter/aikeys/models"

// The reasons why a key that is not the choice does not serve.
const (
	// NotFirst says that another key comes before this one.
	NotFirst Reason = "not_first"
	// OtherCallers says that the keys of its order share callers by weight, and that this key serves other callers.
	OtherCallers Reason = "other_callers"
	// RefusedByProvider says that the provider refused the key within the last five minutes, and that the policy is to
	// try the next key.
	RefusedByProvider Reason = "refused_by_provider"
	// Limited says that the key is at a limit where the request is served, and that the policy is to try the next key.
	Limited Reason = "limited"
	// OtherUsers says that the key is restricted to other users.
	OtherUsers Reason = "other_users"
)

// Explanation is whether a key serves, and why.
type Explanation struct {
	Key    models.Key
	Serves bool
	Reason Reason
}

// Explain says why each key serves a caller or does not. The keys that may serve come first, in the order in which they
// are tried. choice is what Resolve returned for the keys in found. held are keys that are disabled or have expired.
func Explain(choice Choice, r Request, policy models.Policy, found, held models.Serving) []Explanation {
	userKeys := policy.For(r.Provider)
	var all []Explanation
	add := func(k models.Key, reason Reason) { all = append(all, Explanation{k, k.ID == choice.Key.ID, reason}) }
	ranked := rank(userKeys, r.UserID, found)
	passed := false // whether the choice has been listed
	for i, k := range ranked.keys {
		switch {
		case k.ID == choice.Key.ID:
			add(k, choice.Reason)
			passed = true
		case !passed && r.reasonToSkip(policy, k) == NextKeyLimited:
			add(k, Limited)
		case !passed:
			add(k, RefusedByProvider)
		case i < ranked.sharing:
			add(k, OtherCallers)
		default:
			add(k, NotFirst)
		}
	}
	excluded := map[bool]Reason{} // by whether the key is a user's own
	if userKeys == models.UserKeysForbid {
		excluded[true] = UserKeysForbidden
	}
	if userKeys == models.UserKeysRequire {
		excluded[false] = UserKeyRequired
	}
	for _, keys := range [][]models.Key{found.Own, found.Project, held.Own, held.Project} {
		for _, k := range keys {
			if stopped := Stop(k, r.Now); stopped != "" {
				add(k, stopped)
			} else if reason, isExcluded := excluded[k.UserID != ""]; isExcluded {
				add(k, reason)
			} else if !k.Restrictions.Allows(r.UserID) {
				add(k, OtherUsers)
			}
		}
	}
	return all
}
