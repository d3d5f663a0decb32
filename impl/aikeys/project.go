package aikeys

import (
	"context"
	"errors"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/problem"
	"github.com/agentrouter/aikeys/models"
)

// ListEvents returns a page of the audit trail.
func (s *server) ListEvents(ctx context.Context, req gen.ListEventsRequestObject) (gen.ListEventsResponseObject, error) {
	page, err := eventPage(req.Params.PageSize, req.Params.PageToken)
	if err != nil {
		return nil, err
	}
	caller, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	events, err := s.store.ListEvents(ctx, caller, page.after, page.limit())
	if err != nil {
		return nil, err
	}
	events, next := cut(events, page, func(e models.Event) string { return e.ID })
	return gen.ListEvents200JSONResponse{Events: convert(events, wireEvent), NextPageToken: next}, nil
}

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
	if err := checkUserID(req.UserID); err != nil {
		return nil, err
	}
	event := s.event(ctx, models.EventMemberSet, caller.CustomerID, caller.ProjectID)
	event.MemberID, event.Role = req.UserID, models.Role(req.Body.Role)
	var member models.Member
	err = s.writeMembers(ctx, caller, event, func(tx *models.Tx) (err error) {
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
	event := s.event(ctx, models.EventMemberRemoved, caller.CustomerID, caller.ProjectID)
	event.MemberID = req.UserID
	err = s.writeMembers(ctx, caller, event, func(tx *models.Tx) error {
		return tx.RemoveMember(caller.CustomerID, caller.ProjectID, req.UserID)
	})
	if err != nil {
		return nil, err
	}
	return gen.RemoveMember200JSONResponse{}, nil
}

func (s *server) writeMembers(ctx context.Context, caller models.Caller, event models.Event, write func(*models.Tx) error) error {
	err := s.store.Transact(ctx, func(tx *models.Tx) error {
		if err := requireOwner(tx, caller); err != nil {
			return err
		}
		if err := write(tx); err != nil {
			return err
		}
		return tx.AppendEvent(event)
	})
	if errors.Is(err, models.ErrForbidden) {
		s.recordDenied(ctx, event)
	}
	return err
}

// checkUserID refuses ids that a path can't carry: "." and ".." are resolved away by clients and proxies.
func checkUserID(id string) error {
	if id == "." || id == ".." || id == httpapi.SessionDefault {
		return problem.Invalid("user_id", "can't be a dot, two dots or a dash")
	}
	return nil
}
