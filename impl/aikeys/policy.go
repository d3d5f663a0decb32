package aikeys

import (
	"context"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

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
	event := s.event(ctx, models.EventPolicySet, caller)
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) error { return tx.SetPolicy(&policy, caller.UserID) })
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
