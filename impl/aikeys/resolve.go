package aikeys

import (
	"context"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/resolution"
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
	newest, err := s.store.ServingKeys(ctx, caller, provider.Slug)
	if err != nil {
		return nil, err
	}
	choice, err := resolution.Resolve(ctx, s.store, caller, provider.Slug, policy, newest, s.now().UnixMicro())
	if err != nil {
		return nil, err
	}
	reply := gen.ResolveKey200JSONResponse{
		Provider: provider.Slug, Reason: string(choice.Reason),
		UserKeys: gen.UserKeys(policy.For(provider.Slug)), OnBadKey: gen.OnBadKey(policy.OnBadKey),
	}
	if choice.Key.ID != "" {
		key, scope := wireKey(choice.Key), "project"
		if key.UserScope {
			scope = "user"
		}
		reply.Key, reply.Scope = &key, &scope
	}
	return reply, nil
}
