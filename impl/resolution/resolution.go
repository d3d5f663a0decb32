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
	// ErrKeyRevoked, ErrKeyDisabled and ErrKeyExpired say why a key that was fetched by its id serves nobody. If no key
	// may serve a caller, they say why the key that stopped last has stopped.
	ErrKeyRevoked  = errors.New("key is revoked")
	ErrKeyDisabled = errors.New("key is disabled")
	ErrKeyExpired  = errors.New("key has expired")
	// ErrKeyRestricted says that all keys that the policy would let serve are restricted to other users.
	ErrKeyRestricted = errors.New("keys are restricted to other users")
	// ErrCallerUnauthenticated says that the credential of a data plane's caller opens no session.
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

// errs maps the reasons why no key serves to errors.
var errs = map[Reason]error{
	NoKey: ErrNoKey, UserKeyRequired: ErrUserKeyRequired, KeyRestricted: ErrKeyRestricted,
	KeyRevoked: ErrKeyRevoked, KeyDisabled: ErrKeyDisabled, KeyExpired: ErrKeyExpired,
}

// Err returns the error for a reason why no key serves, and nil for all other reasons.
func (r Reason) Err() error { return errs[r] }

// Choice is the key that serves a request, and why. Its Key has an empty ID if no key serves.
type Choice struct {
	Key    models.Key
	Reason Reason
	// Stopped is the key that stopped last, among the keys that the policy would let serve. Its ID is empty unless
	// Reason is KeyRevoked, KeyDisabled or KeyExpired.
	Stopped models.Key
}

var stops = map[models.StopReason]Reason{
	models.StopRevoked: KeyRevoked, models.StopDisabled: KeyDisabled, models.StopExpired: KeyExpired,
}

// Stop returns why a key serves nobody, whatever the policy says, or "" if it may serve.
func Stop(k models.Key, now int64) Reason { return stops[k.StopReason(now)] }

// Request is a request for a key that serves a caller at a provider.
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

// Fetched is the result of Fetch: the choice, which operations the policy lets the key serve, what the policy says about a key at a
// limit, and the statement's position. A key that Resolve reads later may be newer than the position, but never older.
type Fetched struct {
	Choice
	Operations models.Operations
	OnLimited  models.OnLimited
	AsOf       string
}

// Fetch reads in one statement which keys may serve a caller through a data plane, and has Resolve choose one. If no
// key serves, it returns both the choice and the Err of its reason.
func Fetch(ctx context.Context, store Store, dataPlaneID string, r Request) (Fetched, error) {
	found, err := store.Fetch(ctx, dataPlaneID, r.Caller, r.Provider, r.Now)
	if err != nil {
		return Fetched{}, err
	}
	choice, err := Resolve(ctx, store, r, found.Policy, found.Serving)
	return Fetched{choice, found.Policy.Operations, found.Policy.OnLimited, found.AsOf}, cmp.Or(err, choice.Reason.Err())
}

// Resolve applies the policy to the keys that were found. If the policy says next_key and the first key is bad or at a
// limit, it reads all keys that may serve, unless they were found already. This read is later, so a key that was
// revoked in between is not among them. If no key serves, it looks for a key that stopped.
func Resolve(ctx context.Context, keys Keys, r Request, policy models.Policy, found models.Serving) (Choice, error) {
	userKeys := policy.For(r.Provider)
	ranked := rank(userKeys, r.UserID, found)
	if !found.All && len(ranked.keys) > 0 && r.reasonToSkip(policy, ranked.keys[0]) != "" {
		all, err := keys.Candidates(ctx, r.Caller, r.Provider, r.Now)
		if err != nil {
			return Choice{}, err
		}
		ranked = rank(userKeys, r.UserID, all)
	}
	choice := ranked.chooseKey(r, policy)
	if choice.Key.ID != "" || choice.Reason == KeyRestricted {
		return choice, nil
	}
	stopped, err := keys.LastStopped(ctx, r.Caller, r.Provider, scopesOf(userKeys, r.UserID), r.Now)
	if reason := Stop(stopped, r.Now); err == nil && stopped.ID != "" && reason != "" {
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

// ranked has the keys that the policy lets serve a user, in the order in which they are tried, and the reason why the
// first key serves. If there are no keys, the reason says what is missing. sharing is how many of the first keys share
// callers by weight.
type ranked struct {
	keys    []models.Key
	reason  Reason
	sharing int
}

// rank puts the keys that the policy lets serve a user into order: the user's own before the project's. It leaves out keys that are
// restricted to other users.
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

// rankScope puts the keys of one scope into the order in which they serve a user. keys are sorted by order, and then
// newest first. If the newest key of an order has a weight, all keys of that order with a weight share the callers.
// They come before the other keys of the order.
func rankScope(userID string, keys []models.Key, reason Reason) (r ranked) {
	if len(keys) <= 1 {
		return ranked{keys: keys, reason: reason}
	}
	if r.reason = reason; keys[0].Order != keys[len(keys)-1].Order {
		r.reason = ByOrder
	}
	r.keys = slices.Clone(keys)
	for rest := r.keys; len(rest) > 0; {
		end := slices.IndexFunc(rest, func(k models.Key) bool { return k.Order != rest[0].Order })
		if end < 0 {
			end = len(rest)
		}
		if rest[0].Weight > 0 {
			slices.SortStableFunc(rest[:end], func(a, b models.Key) int { return cmp.Compare(score(b, userID), score(a, userID)) })
		}
		if len(rest) == len(keys) {
			unweighted := slices.IndexFunc(rest[:end], func(k models.Key) bool { return k.Weight == 0 })
			if unweighted < 0 {
				unweighted = end
			}
			if unweighted > 1 {
				r.reason, r.sharing = ByWeight, unweighted
			}
		}
		rest = rest[end:]
	}
	return r
}

// score returns a key's score for a user. Among keys that share callers, the key with the highest score serves. This is
// weighted rendezvous hashing: every process computes the same score, keys serve users in proportion to their weights,
// and a key that is added or removed moves only the users that it serves. A key without a weight has the lowest score.
func score(k models.Key, userID string) float64 {
	if k.Weight == 0 {
		return -1
	}
	sum := sha256.Sum256([]byte(k.ID + "\x00" + userID))
	const resolution = 1 << 53 // of a float64
	uniform := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / resolution
	return -float64(k.Weight) / math.Log(uniform)
}

// reasonToSkip returns the reason for using the next key instead of k: k is bad or at a limit, and the policy says
// next_key for that case. The reason is empty if the policy does not skip k.
func (r Request) reasonToSkip(policy models.Policy, k models.Key) Reason {
	switch {
	case policy.OnBadKey == models.OnBadKeyNextKey && k.Bad(r.Now):
		return NextKey
	case policy.OnLimited == models.OnLimitedNextKey && slices.Contains(r.Limited, k.ID):
		return NextKeyLimited
	}
	return ""
}

// chooseKey returns the first key unless the policy skips it. Instead of a skipped key, it returns the first later key
// that is neither skipped nor bad. If there is no such key and the first key was skipped as bad, it returns the first
// later key that is only at a limit. Otherwise it returns the first key after all. Whether a key is bad is a guess from
// its last use; the provider decides.
func (r ranked) chooseKey(of Request, policy models.Policy) Choice {
	if len(r.keys) == 0 {
		return Choice{Reason: r.reason}
	}
	why := of.reasonToSkip(policy, r.keys[0])
	if why == "" {
		return Choice{Key: r.keys[0], Reason: r.reason}
	}
	for _, k := range r.keys[1:] {
		if of.reasonToSkip(policy, k) == "" && !k.Bad(of.Now) {
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
	return Choice{Key: r.keys[0], Reason: r.reason}
}
