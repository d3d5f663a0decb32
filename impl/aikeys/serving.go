package aikeys

import (
	"context"
	"errors"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/problem"
	"github.com/agentrouter/aikeys/models"
)

// ResolveKey tells which key would serve the caller, and why.
func (s *server) ResolveKey(ctx context.Context, req gen.ResolveKeyRequestObject) (gen.ResolveKeyResponseObject, error) {
	provider, err := s.provider(req.Params.Provider)
	if err != nil {
		return nil, err
	}
	caller, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	policy, err := s.store.Policy(ctx, caller)
	if err != nil {
		return nil, err
	}
	serving, err := s.store.ServingKeys(ctx, caller, provider.Slug)
	if err != nil {
		return nil, err
	}
	choice := resolve(policy.For(provider.Slug), serving)
	reply := gen.ResolveKey200JSONResponse{
		Provider: provider.Slug, Reason: choice.reason,
		UserKeys: gen.UserKeys(policy.For(provider.Slug)), OnBadKey: gen.OnBadKey(policy.OnBadKey),
	}
	if choice.key.ID != "" {
		key, scope := wireKey(choice.key), "project"
		if key.UserScope {
			scope = "user"
		}
		reply.Key, reply.Scope = &key, &scope
	}
	return reply, nil
}

// choice is the key that serves, if any, and the reason code.
type choice struct {
	key    models.Key
	reason string
}

// resolve applies the policy on members' own keys to what is registered.
func resolve(policy models.UserKeys, keys models.Serving) choice {
	own, project := keys.Own.ID != "", keys.Project.ID != ""
	switch {
	case policy == models.UserKeysForbid && project:
		return choice{keys.Project, "user_keys_forbidden"}
	case policy != models.UserKeysForbid && own:
		return choice{keys.Own, "user_key"}
	case policy == models.UserKeysRequire:
		return choice{reason: "user_key_required"}
	case policy == models.UserKeysAllow && project:
		return choice{keys.Project, "project_key"}
	}
	return choice{reason: "no_key"}
}

// GetPolicy returns the project's policy.
func (s *server) GetPolicy(ctx context.Context, req gen.GetPolicyRequestObject) (gen.GetPolicyResponseObject, error) {
	caller, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	policy, err := s.store.Policy(ctx, caller)
	if err != nil {
		return nil, err
	}
	return gen.GetPolicy200JSONResponse{Policy: wirePolicy(policy)}, nil
}

// SetPolicy replaces the project's policy.
func (s *server) SetPolicy(ctx context.Context, req gen.SetPolicyRequestObject) (gen.SetPolicyResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	policy, err := s.policyFrom(caller, req.Body)
	if err != nil {
		return nil, err
	}
	event := s.event(ctx, models.EventPolicySet, caller.CustomerID, caller.ProjectID)
	err = s.store.Transact(ctx, func(tx *models.Tx) error {
		if err := requireOwner(tx, caller); err != nil {
			return err
		}
		if err := tx.SetPolicy(&policy, caller.UserID); err != nil {
			return err
		}
		return tx.AppendEvent(event)
	})
	if errors.Is(err, models.ErrForbidden) {
		s.recordDenied(ctx, event)
	}
	if err != nil {
		return nil, err
	}
	return gen.SetPolicy200JSONResponse{Policy: wirePolicy(policy)}, nil
}

func (s *server) policyFrom(caller models.Caller, body *gen.PolicyRequest) (models.Policy, error) {
	policy := models.DefaultPolicy(caller.CustomerID, caller.ProjectID)
	policy.UserKeysByProvider = map[string]models.UserKeys{} // a nil map would be stored as NULL, which the column refuses
	if body.UserKeys != nil {
		policy.UserKeys = models.UserKeys(*body.UserKeys)
	}
	if body.OnBadKey != nil {
		policy.OnBadKey = models.OnBadKey(*body.OnBadKey)
	}
	if body.UserKeysByProvider == nil {
		return policy, nil
	}
	for slug, choice := range *body.UserKeysByProvider {
		if _, known := s.providers.Lookup(slug); !known {
			return policy, problem.Invalid("user_keys_by_provider", "names a provider that we don't know; known are "+s.knownProviders())
		}
		policy.UserKeysByProvider[slug] = models.UserKeys(choice)
	}
	return policy, nil
}

// requireOwner is the access rule for writing policy and members.
func requireOwner(tx *models.Tx, caller models.Caller) error {
	role, err := tx.Role(caller)
	if err == nil && role != models.RoleOwner {
		err = models.ErrForbidden
	}
	return err
}
