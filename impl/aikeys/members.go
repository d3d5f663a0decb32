package aikeys

import (
	"context"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// ListMembers returns the project's members.
func (s *server) ListMembers(ctx context.Context, req gen.ListMembersRequestObject) (gen.ListMembersResponseObject, error) {
	page, err := memberPage(req.Params.PageSize, req.Params.PageToken)
	if err != nil {
		return nil, err
	}
	caller, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	members, err := s.store.ListMembers(ctx, caller, page.after, page.limit())
	if err != nil {
		return nil, err
	}
	members, next := cut(members, page, func(m models.Member) string { return m.UserID })
	return gen.ListMembers200JSONResponse{Members: convert(members, wireMember), NextPageToken: next}, nil
}

// SetMember adds a member or changes their role.
func (s *server) SetMember(ctx context.Context, req gen.SetMemberRequestObject) (gen.SetMemberResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	if !models.ValidID(req.UserID) {
		return nil, problem.Invalid("user_id", "can't be a dot, two dots or a dash")
	}
	event := s.event(ctx, models.EventMemberSet, caller)
	event.MemberID, event.Role = req.UserID, models.Role(req.Body.Role)
	var member models.Member
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) (err error) {
		member, err = tx.SetMember(caller.CustomerID, caller.ProjectID, req.UserID, event.Role)
		return err
	})
	if err != nil {
		return nil, err
	}
	return gen.SetMember200JSONResponse{Member: wireMember(member)}, nil
}

// RemoveMember takes a member out of the project.
func (s *server) RemoveMember(ctx context.Context, req gen.RemoveMemberRequestObject) (gen.RemoveMemberResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	event := s.event(ctx, models.EventMemberRemoved, caller)
	event.MemberID = req.UserID
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) error {
		return tx.RemoveMember(caller.CustomerID, caller.ProjectID, req.UserID)
	})
	if err != nil {
		return nil, err
	}
	return gen.RemoveMember200JSONResponse{}, nil
}
