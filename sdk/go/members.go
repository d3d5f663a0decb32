package agentrouter

import (
	"context"
	"iter"
	"strconv"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"github.com/tetrateio/agentrouter-go/internal/operations"
)

// MembersClient reads and writes the project's members.
type MembersClient struct{ service service }

// With returns a client whose calls take these optional parameters: PageSize and PageToken for List, PageSize for All, Wait
// and GraceDays for Remove.
func (m *MembersClient) With(options ...CallOption) *MembersClient {
	return &MembersClient{m.service.with(options)}
}

type setMemberRequest struct {
	Role aikeysv1.Role `json:"role"`
}

// List returns the members, sorted by user id: all of them, or one page with PageSize or PageToken.
func (m *MembersClient) List(
	ctx context.Context, customerID, projectID string,
) (*aikeysv1.ListMembersResponse, error) {
	return list(m.service, func(s service) (*aikeysv1.ListMembersResponse, error) {
		r := s.inProject(operations.ListMembers(), customerID, projectID)
		return send(ctx, r, func(r *aikeysv1.ListMembersResponse) bool { return r.Members != nil })
	}, func(page *aikeysv1.ListMembersResponse) (*[]aikeysv1.Member, *string) {
		return &page.Members, &page.NextPageToken
	})
}

// All iterates over the members of all pages. It fetches pages as needed and stops after an error.
func (m *MembersClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Member, error] {
	return allPages(m.service, func(s service) ([]aikeysv1.Member, string, error) {
		page, err := (&MembersClient{s}).List(ctx, customerID, projectID)
		if err != nil {
			return nil, "", err
		}
		return page.Members, page.NextPageToken, nil
	})
}

// Set adds a user to the project, or changes a member's role. Owners only.
func (m *MembersClient) Set(
	ctx context.Context, customerID, projectID, userID string, role aikeysv1.Role,
) (*aikeysv1.MemberResponse, error) {
	r := m.service.inProject(operations.SetMember(), customerID, projectID, "user_id", userID)
	r.body = setMemberRequest{Role: role}
	return send(ctx, r, func(r *aikeysv1.MemberResponse) bool { return r.Member.UserID != "" })
}

// GraceDays has Remove make a removal that can be undone for so many days, instead of the project's grace: 30 days unless its policy says
// otherwise. After 0 it can't.
func GraceDays(days int) CallOption {
	return func(s *service) { s.setQuery("grace_days", strconv.Itoa(days)) }
}

// Impact returns what the removal of a member would do. Owners only.
func (m *MembersClient) Impact(
	ctx context.Context, customerID, projectID, userID string,
) (*aikeysv1.MemberImpactResponse, error) {
	r := m.service.inProject(operations.GetMemberImpact(), customerID, projectID, "user_id", userID)
	return send(ctx, r, func(r *aikeysv1.MemberImpactResponse) bool { return r.Member.UserID != "" })
}

// Restore undoes the last removal of a user, if that is still possible. Owners only.
func (m *MembersClient) Restore(
	ctx context.Context, customerID, projectID, userID string,
) (*aikeysv1.RestoreMemberResponse, error) {
	r := m.service.inProject(operations.RestoreMember(), customerID, projectID, "user_id", userID)
	return send(ctx, r, func(r *aikeysv1.RestoreMemberResponse) bool { return r.Member.UserID != "" })
}

// Remove removes a member from the project, and suspends their own keys and API keys there. The receipt says how many data planes have
// confirmed; with Wait, the service answers when all have. Owners only. If they are not a member, it returns an ErrNotFound.
func (m *MembersClient) Remove(
	ctx context.Context, customerID, projectID, userID string,
) (*aikeysv1.RemoveMemberResponse, error) {
	r := m.service.inProject(operations.RemoveMember(), customerID, projectID, "user_id", userID)
	return send(ctx, r, func(*aikeysv1.RemoveMemberResponse) bool { return true })
}
