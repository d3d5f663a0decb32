// Package resolution decides which provider key serves a request: it applies the project's policy to the active keys of a
// provider. A fetch by a data plane and the public dry run (resolve) both use it, so the dry run says what a fetch would do.
// It may import models, and nothing else of ours.
package resolution

import (
	"cmp"
	"context"
	"errors"

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
	NextKey           Reason = "next_key"
	ByID              Reason = "by_id"
	UserKeyRequired   Reason = "user_key_required"
	KeyRevoked        Reason = "key_revoked"
	KeyDisabled       Reason = "key_disabled"
	KeyExpired        Reason = "key_expired"
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

// Keys finds the keys of a provider; *models.Store is one.
type Keys interface {
	// Candidates returns the keys that may serve, newest first.
	Candidates(ctx context.Context, c models.Caller, provider string, now int64) (own, project []models.Key, err error)
	// LastStopped returns the key that stopped last in some scopes: users' ids, or "" for the project's keys.
	LastStopped(ctx context.Context, c models.Caller, provider string, scopes []string, now int64) (models.Key, error)
}

// Store is what Fetch reads; *models.Store is one.
type Store interface {
	Keys
	Fetch(ctx context.Context, dataPlaneID string, c models.Caller, provider string, now int64) (models.Fetched, error)
}

// Fetched is what Fetch returns: the choice, which operations the policy lets it serve, and the statement's position. A key that
// Resolve reads later is newer than the position says, never older.
type Fetched struct {
	Choice
	Operations models.Operations
	AsOf       string
}

// Fetch reads in one statement what may serve a caller through a data plane, and returns what Resolve chooses of it. The error is
// the choice's Err if no key serves; a choice comes with it.
func Fetch(
	ctx context.Context, store Store, dataPlaneID string, c models.Caller, provider string, now int64,
) (Fetched, error) {
	found, err := store.Fetch(ctx, dataPlaneID, c, provider, now)
	if err != nil {
		return Fetched{}, err
	}
	choice, err := Resolve(ctx, store, c, provider, found.Policy, models.Serving{Own: found.Own, Project: found.Project}, now)
	return Fetched{choice, found.Policy.Operations, found.AsOf}, cmp.Or(err, choice.Err())
}

// Resolve applies the policy to the newest key of each scope. If the chosen key is bad and the policy says next_key, it reads
// all that may serve and applies the policy to those. They are read later than the newest ones, so a key that was revoked in
// between is not among them. If no key serves, it looks for one that stopped.
func Resolve(
	ctx context.Context, keys Keys, c models.Caller, provider string, policy models.Policy, newest models.Serving, now int64,
) (Choice, error) {
	userKeys := policy.For(provider)
	choice := choose(userKeys, newest.Own, newest.Project)
	if policy.OnBadKey == models.OnBadKeyNextKey && choice.Key.Bad(now) {
		own, project, err := keys.Candidates(ctx, c, provider, now)
		if err != nil {
			return Choice{}, err
		}
		choice = chooseAmongAll(userKeys, own, project, now)
	}
	if choice.Key.ID != "" {
		return choice, nil
	}
	stopped, err := keys.LastStopped(ctx, c, provider, scopesOf(userKeys, c.UserID), now)
	if reason, _ := Stop(stopped, now); err == nil && stopped.ID != "" && reason != "" {
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

// choose applies the policy on users' own keys to the user's newest key and the project's.
func choose(policy models.UserKeys, own, project models.Key) Choice {
	switch {
	case policy == models.UserKeysForbid && project.ID != "":
		return Choice{Key: project, Reason: UserKeysForbidden}
	case policy != models.UserKeysForbid && own.ID != "":
		return Choice{Key: own, Reason: UserKey}
	case policy == models.UserKeysRequire:
		return Choice{Reason: UserKeyRequired}
	case policy == models.UserKeysAllow && project.ID != "":
		return Choice{Key: project, Reason: ProjectKey}
	}
	return Choice{Reason: NoKey}
}

// chooseAmongAll returns the first key that is not bad, in the order in which they may serve. If all are bad, the first one
// serves anyway: badness is a guess from the last use, and the provider decides.
func chooseAmongAll(policy models.UserKeys, own, project []models.Key, now int64) Choice {
	first := choose(policy, newestOf(own), newestOf(project))
	if first.Key.ID == "" || !first.Key.Bad(now) {
		return first
	}
	var inOrder []models.Key
	if policy != models.UserKeysForbid {
		inOrder = append(inOrder, own...)
	}
	if policy != models.UserKeysRequire {
		inOrder = append(inOrder, project...)
	}
	for _, key := range inOrder {
		if !key.Bad(now) {
			return Choice{Key: key, Reason: NextKey}
		}
	}
	return first
}

func newestOf(keys []models.Key) models.Key {
	if len(keys) == 0 {
		return models.Key{}
	}
	return keys[0]
}
