package aikeys

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models"
)

// errSuspended says that a key that is to be enabled was suspended by its user's removal.
var errSuspended = errors.New("key is suspended by the removal of its user")

// RemoveMember removes a member from the project, and answers with the receipt: at once, or once it is complete if the caller waits for that.
func (s *server) RemoveMember(ctx context.Context, req gen.RemoveMemberRequestObject) (gen.RemoveMemberResponseObject, error) {
	wait, err := parseWait(req.Params.Wait)
	if err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	event := s.event(ctx, models.EventMemberRemoved, caller)
	event.MemberID = req.UserID
	removal := models.Removal{ID: s.ids.Next("", s.Now()), CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, UserID: req.UserID}
	if days := req.Params.GraceDays; days != nil {
		removal.RestoreUntil = s.Now().Add(time.Duration(*days) * 24 * time.Hour).UnixMicro()
	}
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) (err error) {
		removal, err = tx.SuspendMember(removal, event)
		return err
	})
	if err != nil {
		return nil, err
	}
	receipt := s.receiptOf(removal.RemovedAt, removal.RemovedBy, s.receiptOfStop(ctx, removal.Stop(), wait))
	return gen.RemoveMember200JSONResponse{
		Receipt: &receipt, RestoreUntil: new(wireTime(removal.RestoreUntil)), SuspendedKeys: new(int(removal.Keys)),
		SuspendedTokens: new(len(removal.Tokens.List())),
	}, nil
}

// RestoreMember undoes the removal of a member.
func (s *server) RestoreMember(ctx context.Context, req gen.RestoreMemberRequestObject) (gen.RestoreMemberResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	event := s.event(ctx, models.EventMemberSet, caller)
	event.MemberID = req.UserID
	var (
		member  models.Member
		removal models.Removal
	)
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) (err error) {
		member, removal, err = tx.RestoreMember(caller.CustomerID, caller.ProjectID, req.UserID, event)
		return err
	})
	if err != nil {
		return nil, err
	}
	return gen.RestoreMember200JSONResponse{
		Member: wireMember(member), RestoredKeys: int(removal.Keys), RestoredTokens: len(removal.Tokens.List()),
	}, nil
}

// GetMemberImpact returns what the removal of a member would do, to an owner.
func (s *server) GetMemberImpact(ctx context.Context, req gen.GetMemberImpactRequestObject) (gen.GetMemberImpactResponseObject, error) {
	caller, role, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	if role != models.RoleOwner {
		return nil, errRemoveMember
	}
	impact, err := s.Store.RemovalImpact(ctx, caller.CustomerID, caller.ProjectID, req.UserID, s.Now().UnixMicro())
	if err != nil {
		return nil, err
	}
	return gen.GetMemberImpact200JSONResponse(s.wireImpact(impact)), nil
}

func (s *server) wireImpact(i models.Impact) gen.MemberImpactResponse {
	wire := gen.MemberImpactResponse{
		Member: wireMember(i.Member), LastOwner: i.LastOwner, Stops: gen.ImpactStops{Tokens: i.TokensHere + i.TokensElsewhere},
		Stays: gen.ImpactStays{TokensElsewhere: i.TokensElsewhere, ProjectKeys: int(i.RegisteredKeys)}, AtProviders: []gen.ImpactAtProvider{},
	}
	registered := map[string][]string{}
	for _, k := range i.Registered {
		registered[k.Provider] = append(registered[k.Provider], k.ID)
	}
	slugs := slices.Concat(slices.Collect(maps.Keys(i.OwnKeys)), slices.Collect(maps.Keys(registered)))
	slices.Sort(slugs)
	for _, slug := range slices.Compact(slugs) {
		at := gen.ImpactAtProvider{Provider: slug, OwnKeys: i.OwnKeys[slug], ReplaceKeys: append([]string{}, registered[slug]...)}
		if provider, known := s.Providers.Lookup(slug); known {
			at.KeyPageURL = optional(provider.KeyPage)
		}
		wire.Stops.OwnKeys += at.OwnKeys
		wire.AtProviders = append(wire.AtProviders, at)
	}
	return wire
}
