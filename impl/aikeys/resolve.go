package aikeys

import (
	"context"
	"errors"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/models"
)

// ResolveKey returns which key would serve the caller, and why. An owner may ask the same for another member.
func (s *server) ResolveKey(ctx context.Context, req gen.ResolveKeyRequestObject) (gen.ResolveKeyResponseObject, error) {
	provider, err := s.parseProvider(&req.Params.Provider)
	if err != nil {
		return nil, err
	}
	caller, _, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	now := s.Now().UnixMicro()
	served, isMember, err := s.servedUser(ctx, caller, req.Params.UserID, now)
	if err != nil {
		return nil, err
	}
	policy, err := s.Store.Policy(ctx, caller)
	if err != nil {
		return nil, err
	}
	reply := gen.ResolveKey200JSONResponse{
		Provider: provider, Serves: new(false), Reason: notAMember,
		UserKeys: gen.UserKeys(policy.For(provider)), OnBadKey: gen.OnBadKey(policy.OnBadKey), OnLimited: new(gen.OnLimited(policy.OnLimited)),
	}
	if !isMember {
		return reply, nil
	}
	serving, err := s.Store.ServingKeys(ctx, served, provider, now)
	if err != nil {
		return nil, err
	}
	asked := resolution.Request{Caller: served, Provider: provider, Now: now}
	if req.Params.Limited != nil {
		asked.Limited = []string{parseKeyID(*req.Params.Limited)}
	}
	choice, err := resolution.Resolve(ctx, s.Store, asked, policy, serving)
	if err != nil {
		return nil, err
	}
	show := func(k models.Key) *gen.Key { return s.wireIfReadable(k, caller, policy) }
	reply.Reason, reply.Key = string(choice.Reason), show(choice.Key)
	if choice.Key.ID != "" {
		choice.Key.UserKeys = policy.For(provider)
		reply.Scope, reply.Serves = new(scopeOf(choice.Key)), new(notServing(choice.Key, now) == "")
	}
	if choice.Reason == resolution.KeyRevoked {
		reply.RevokedKey = show(choice.Stopped)
	} else {
		reply.StoppedKey = show(choice.Stopped)
	}
	if !orZero(req.Params.Explain) {
		return reply, nil
	}
	held, err := s.Store.HeldKeys(ctx, served, provider, now)
	if err != nil {
		return nil, err
	}
	for _, e := range resolution.Explain(choice, asked, policy, serving, held) {
		reply.Candidates = append(reply.Candidates, gen.Candidate{
			Scope: scopeOf(e.Key), Serves: e.Serves, Reason: string(e.Reason), Key: show(e.Key),
		})
	}
	return reply, nil
}

// wireIfReadable returns a key for the answer, or nil if there is no key or the caller may not read it.
func (s *server) wireIfReadable(k models.Key, caller models.Caller, policy models.Policy) *gen.Key {
	if k.ID == "" || k.UserID != "" && k.UserID != caller.UserID {
		return nil
	}
	k.UserKeys = policy.For(k.Provider)
	return new(s.wireKey(k))
}

// notAMember is the reason why no key serves a user who is not a member of the project.
const notAMember = "not_a_member"

// servedUser returns the user for whom a key is resolved, and whether they are a member. Only an owner may resolve for
// another user.
func (s *server) servedUser(ctx context.Context, caller models.Caller, userID *string, now int64) (served models.Caller, isMember bool, err error) {
	if userID == nil || *userID == caller.UserID {
		return caller, true, nil
	}
	role, err := s.Store.Role(ctx, caller, now)
	if err == nil && !role.Covers(models.RoleOwner) {
		err = errResolveOther
	}
	if err != nil {
		return caller, false, err
	}
	served = models.Caller{CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, UserID: *userID}
	_, err = s.Store.Role(ctx, served, now)
	if errors.Is(err, models.ErrNotMember) {
		return served, false, nil
	}
	return served, true, err
}

// scopeOf returns "user" for a user's own key and "project" for any other.
func scopeOf(k models.Key) string {
	if k.UserID != "" {
		return "user"
	}
	return "project"
}
