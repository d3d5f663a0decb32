package aikeys

import (
	"context"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
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
