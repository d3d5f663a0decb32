// Package resolution is the rule by which a provider key serves a request: the project's written policy, applied to the active
// keys of a provider. A fetch by a data plane and the public dry run (resolve) both ask here, so that what the one says is
// what the other does. It may import models, and nothing else of ours.
package resolution

import (
	"context"
	"errors"

	"github.com/agentrouter/aikeys/models"
)

// The reasons for which no key is given out.
var (
	// ErrNoKey says that no active key of the provider may serve the user.
	ErrNoKey = errors.New("no active key may serve this")
	// ErrUserKeyRequired says that the policy requires a key of the user's own, and there is none.
	ErrUserKeyRequired = errors.New("policy requires a key of the user's own")
	// ErrKeyRevoked says that the key that was asked for is revoked.
	ErrKeyRevoked = errors.New("key is revoked")
	// ErrCallerUnauthenticated says that the credential of the caller, for whom a data plane asks, opens no session.
	ErrCallerUnauthenticated = errors.New("caller unauthenticated")
)

// Reason is the code of the rule that chose a key, or that left none.
type Reason string

// The reason codes, as the API documents describe them.
const (
	UserKey           Reason = "user_key"
	ProjectKey        Reason = "project_key"
	UserKeysForbidden Reason = "user_keys_forbidden"
	NextKey           Reason = "next_key"
	ByID              Reason = "by_id"
	UserKeyRequired   Reason = "user_key_required"
	NoKey             Reason = "no_key"
)

// Choice is the key that serves, with an empty ID where none does, and why.
type Choice struct {
	Key    models.Key
	Reason Reason
}

// Err returns the reason for which no key serves as an error, nil where one does.
func (c Choice) Err() error {
	switch {
	case c.Key.ID != "":
		return nil
	case c.Reason == UserKeyRequired:
		return ErrUserKeyRequired
	}
	return ErrNoKey
}

// Keys finds the active keys of a provider, the newest first; *models.Store is one.
type Keys interface {
	Candidates(ctx context.Context, c models.Caller, provider string) (own, project []models.Key, err error)
}

// Resolve applies the policy to the newest keys, and where that key is bad and the policy has others serve in its place, to
// all of them. The rest is read only then, and so later: a key that was revoked meanwhile is not among them.
func Resolve(
	ctx context.Context, keys Keys, c models.Caller, provider string, policy models.Policy, newest models.Serving, now int64,
) (Choice, error) {
	choice := choose(policy.For(provider), newest.Own, newest.Project)
	if policy.OnBadKey != models.OnBadKeyNextKey || !choice.Key.Bad(now) {
		return choice, nil
	}
	own, project, err := keys.Candidates(ctx, c, provider)
	if err != nil {
		return Choice{}, err
	}
	return amongAll(policy.For(provider), own, project, now), nil
}

// choose applies the policy on users' own keys to the newest of each kind.
func choose(policy models.UserKeys, own, project models.Key) Choice {
	switch {
	case policy == models.UserKeysForbid && project.ID != "":
		return Choice{project, UserKeysForbidden}
	case policy != models.UserKeysForbid && own.ID != "":
		return Choice{own, UserKey}
	case policy == models.UserKeysRequire:
		return Choice{Reason: UserKeyRequired}
	case policy == models.UserKeysAllow && project.ID != "":
		return Choice{project, ProjectKey}
	}
	return Choice{Reason: NoKey}
}

// amongAll returns the first key, in the order in which they may serve, that is not bad. That a key is bad is a guess from
// its last use, so where all are, the first serves after all: the provider decides.
func amongAll(policy models.UserKeys, own, project []models.Key, now int64) Choice {
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
			return Choice{key, NextKey}
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
