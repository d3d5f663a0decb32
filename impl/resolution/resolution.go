// Package resolution decides which provider key serves a request: it applies the project's policy to the active keys of a
// provider. A fetch by a data plane and the public dry run (resolve) both use it, so the dry run says what a fetch would do.
// It may import models, and nothing else of ours.
package resolution

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/agentrouter/aikeys/models"
)

// The errors of a request that no key serves.
var (
	// ErrNoKey says that no key of the provider may serve the user.
	ErrNoKey = errors.New("no active key may serve this")
	// ErrUserKeyRequired says that the policy requires a key of the user's own and the user has none.
	ErrUserKeyRequired = errors.New("policy requires a key of the user's own")
	// ErrKeyRevoked, ErrKeyDisabled and ErrKeyExpired say that the key that was asked for by id serves nobody, or that none may serve and
	// the last of them to stop did so for this reason.
	ErrKeyRevoked  = errors.New("key is revoked")
	ErrKeyDisabled = errors.New("key is disabled")
	ErrKeyExpired  = errors.New("key has expired")
	// ErrKeyRestricted says that the keys that the policy would let serve are all restricted to other users.
	ErrKeyRestricted = errors.New("keys are restricted to other users")
	// ErrCallerUnauthenticated says that the credential of the caller on whose behalf a data plane asks opens no session.
	ErrCallerUnauthenticated = errors.New("caller unauthenticated")
)

// Reason is the code of the rule that chose a key or excluded all of them.
type Reason string

// The reason codes, as the API documents describe them.
const (
	UserKey           Reason = "user_key"
	ProjectKey        Reason = "project_key"
	UserKeysForbidden Reason = "user_keys_forbidden"
	ByOrder           Reason = "order"
	ByWeight          Reason = "weight"
	NextKey           Reason = "next_key"
	NextKeyLimited    Reason = "next_key_limited"
	ByID              Reason = "by_id"
	UserKeyRequired   Reason = "user_key_required"
	KeyRevoked        Reason = "key_revoked"
	KeyDisabled       Reason = "key_disabled"
	KeyExpired        Reason = "key_expired"
	KeyRestricted     Reason = "key_restricted"
	NoKey             Reason = "no_key"
)

// Choice is the key that serves a request, and why. Its Key has an empty ID if no key serves.
type Choice struct {
	Key    models.Key
	Reason Reason
	// Stopped is the last to stop of the keys that the policy would let serve; its ID is empty unless Reason says that it was revoked or
	// disabled, or has expired.
	Stopped models.Key
}

// Err returns nil if a key serves, and one of the package's errors if not.
func (c Choice) Err() error {
	switch {
	case c.Key.ID != "":
		return nil
	case c.Reason == UserKeyRequired:
		return ErrUserKeyRequired
	case c.Reason == KeyRevoked:
		return ErrKeyRevoked
	case c.Reason == KeyDisabled:
		return ErrKeyDisabled
	case c.Reason == KeyExpired:
		return ErrKeyExpired
	case c.Reason == KeyRestricted:
		return ErrKeyRestricted
	}
	return ErrNoKey
}

// Stop returns why a key serves nobody, whatever the policy says. Both are zero if it may serve.
func Stop(k models.Key, now int64) (Reason, error) {
	switch k.StopReason(now) {
	case models.StopRevoked:
		return KeyRevoked, ErrKeyRevoked
	case models.StopDisabled:
		return KeyDisabled, ErrKeyDisabled
	case models.StopExpired:
		return KeyExpired, ErrKeyExpired
	}
	return "", nil
}

// Request is whom a key is to serve, at which provider.
type Request struct {
	models.Caller
	Provider string
	// Limited are the ids of keys that are at a limit where the request is served.
	Limited []string
	Now     int64
}

// Keys finds the keys of a provider; *models.Store is one.
type Keys interface {
	// Candidates returns all keys that may serve.
	Candidates(ctx context.Context, c models.Caller, provider string, now int64) (models.Serving, error)
	// LastStopped returns the key that stopped last in some scopes: users' ids, or "" for the project's keys.
	LastStopped(ctx context.Context, c models.Caller, provider string, scopes []string, now int64) (models.Key, error)
}

// Store is what Fetch reads; *models.Store is one.
type Store interface {
	Keys
	Fetch(ctx context.Context, dataPlaneID string, c models.Caller, provider string, now int64) (models.Fetched, error)
}

// Fetched is what Fetch returns: the choice, which operations the policy lets it serve, what the policy says of a key at a limit, and the
// statement's position. A key that Resolve reads later is newer than the position says, never older.
type Fetched struct {
	Choice
	Operations models.Operations
	OnLimited  models.OnLimited
	AsOf       string
}

// Fetch reads in one statement what may serve a caller through a data plane, and returns what Resolve chooses of it. The error is
// the choice's Err if no key serves; a choice comes with it.
func Fetch(ctx context.Context, store Store, dataPlaneID string, r Request) (Fetched, error) {
	found, err := store.Fetch(ctx, dataPlaneID, r.Caller, r.Provider, r.Now)
	if err != nil {
		return Fetched{}, err
	}
	choice, err := Resolve(ctx, store, r, found.Policy, found.Serving)
	return Fetched{choice, found.Policy.Operations, found.Policy.OnLimited, found.AsOf}, cmp.Or(err, choice.Err())
}

// Resolve applies the policy to what was found. If the first key is bad or at a limit, the policy says next_key of that and there may be
// others, it reads all that may serve and applies the policy to those. They are read later than the first ones, so a key that was revoked in
// between is not among them. If no key serves, it looks for one that stopped.
func Resolve(ctx context.Context, keys Keys, r Request, policy models.Policy, found models.Serving) (Choice, error) {
	userKeys := policy.For(r.Provider)
	ranked := rank(userKeys, r.UserID, found)
	choice := ranked.first()
	if r.passes(policy, choice.Key) != "" {
		if !found.All {
			all, err := keys.Candidates(ctx, r.Caller, r.Provider, r.Now)
			if err != nil {
				return Choice{}, err
			}
			ranked = rank(userKeys, r.UserID, all)
		}
		choice = ranked.firstAble(r, policy)
	}
	if choice.Key.ID != "" || choice.Reason == KeyRestricted {
		return choice, nil
	}
	stopped, err := keys.LastStopped(ctx, r.Caller, r.Provider, scopesOf(userKeys, r.UserID), r.Now)
	if reason, _ := Stop(stopped, r.Now); err == nil && stopped.ID != "" && reason != "" {
		choice = Choice{Stopped: stopped, Reason: reason}
	}
	return choice, err
}

// scopesOf returns the scopes whose keys the policy lets serve a user: the user's own, and "" for the project's.
func scopesOf(policy models.UserKeys, userID string) []string {
	var scopes []string
	if policy != models.UserKeysForbid && userID != "" {
		scopes = append(scopes, userID)
	}
	if policy != models.UserKeysRequire {
		scopes = append(scopes, "")
	}
	return scopes
}

// ranked are the keys that the policy lets serve a user, in the order in which they come, and why the first of them serves. Without any,
// the reason says what is missing. The first sharing keys share callers by weight.
type ranked struct {
	keys    []models.Key
	reason  Reason
	sharing int
}

// rank puts the keys that the policy lets serve a user into their order: the user's own before the project's. Keys that are restricted to
// other users are left out.
func rank(policy models.UserKeys, userID string, found models.Serving) (r ranked) {
	project, isBarred := found.Project, func(k models.Key) bool { return !k.Restrictions.Allows(userID) }
	if slices.ContainsFunc(project, isBarred) {
		project = slices.DeleteFunc(slices.Clone(project), isBarred)
	}
	if policy != models.UserKeysForbid {
		r = rankScope(userID, found.Own, UserKey)
	}
	if policy != models.UserKeysRequire {
		reason := ProjectKey
		if policy == models.UserKeysForbid {
			reason = UserKeysForbidden
		}
		project := rankScope(userID, project, reason)
		if len(r.keys) == 0 {
			r = project
		} else {
			r.keys = slices.Concat(r.keys, project.keys)
		}
	}
	switch {
	case len(r.keys) > 0:
	case policy == models.UserKeysRequire:
		r.reason = UserKeyRequired
	case len(found.Project) > 0:
		r.reason = KeyRestricted
	default:
		r.reason = NoKey
	}
	return r
}

// rankScope puts the keys of one scope, which come by their order and newest first, into the order in which they serve a user. If the newest
// of an order has a weight, all of that order that have one share the callers, and come before the others of it.
func rankScope(userID string, keys []models.Key, reason Reason) (r ranked) {
	if len(keys) <= 1 {
		return ranked{keys: keys, reason: reason}
	}
	if r.reason = reason; keys[0].Order != keys[len(keys)-1].Order {
		r.reason = ByOrder
	}
	r.keys = make([]models.Key, 0, len(keys))
	for rest := keys; len(rest) > 0; {
		end := slices.IndexFunc(rest, func(k models.Key) bool { return k.Order != rest[0].Order })
		if end < 0 {
			end = len(rest)
		}
		sharing := 0
		if rest[0].Weight > 0 {
			var weighted, others []models.Key
			for _, k := range rest[:end] {
				if k.Weight > 0 {
					weighted = append(weighted, k)
				} else {
					others = append(others, k)
				}
			}
			slices.SortFunc(weighted, func(a, b models.Key) int { return cmp.Compare(score(b, userID), score(a, userID)) })
			sharing = len(weighted)
			r.keys = append(append(r.keys, weighted...), others...)
		} else {
			r.keys = append(r.keys, rest[:end]...)
		}
		if len(rest) == len(keys) && sharing > 1 {
			r.reason, r.sharing = ByWeight, sharing
		}
		rest = rest[end:]
	}
	return r
}

// score returns how well a key suits a user: the highest score of the keys that share callers decides. Each user has the same key wherever
// and whenever it is computed, keys serve users in proportion to their weights, and a key that comes or goes moves only the users that it
// serves (weighted rendezvous hashing).
func score(k models.Key, userID string) float64 {
	sum := sha256.Sum256([]byte(k.ID + "\x00" + userID))
	const resolution = 1 << 53 // of a float64
	uniform := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / resolution
	return -float64(k.Weight) / math.Log(uniform)
}

// first returns the choice of the first key, whether it is bad or not.
func (r ranked) first() Choice {
	if len(r.keys) == 0 {
		return Choice{Reason: r.reason}
	}
	return Choice{Key: r.keys[0], Reason: r.reason}
}

// passes returns the reason for which the key after this one serves, if the policy says so: this one is bad, or at a limit. It is empty if
// this one serves.
func (r Request) passes(policy models.Policy, k models.Key) Reason {
	switch {
	case policy.OnBadKey == models.OnBadKeyNextKey && k.Bad(r.Now):
		return NextKey
	case policy.OnLimited == models.OnLimitedNextKey && slices.Contains(r.Limited, k.ID):
		return NextKeyLimited
	}
	return ""
}

// firstAble returns the first key that is neither passed over nor bad. Without such a key, a good key at a limit serves rather than
// a bad one, and otherwise the first of all: badness is a guess from the last use, and the provider decides.
func (r ranked) firstAble(of Request, policy models.Policy) Choice {
	if len(r.keys) == 0 {
		return r.first()
	}
	why := of.passes(policy, r.keys[0])
	if why == "" {
		return r.first()
	}
	for _, k := range r.keys[1:] {
		if of.passes(policy, k) == "" && !k.Bad(of.Now) {
			return Choice{Key: k, Reason: why}
		}
	}
	if why == NextKey {
		for _, k := range r.keys[1:] {
			if !k.Bad(of.Now) {
				return Choice{Key: k, Reason: why}
			}
		}
	}
	return r.first()
}
