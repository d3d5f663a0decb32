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

// With returns a client that adds options to its calls. List takes PageSize and PageToken, All takes PageSize, and Remove takes Wait
// and GraceDays.
func (m *MembersClient) With(options ...CallOption) *MembersClient {
	return &MembersClient{m.service.with(options)}
}

type setMemberRequest struct {
	Role aikeysv1.Role `json:"role"`
}

// List returns the members, sorted by user id: all of them, or one page with PageSize or PageToken.
func (m *MembersClient) List(ctx context.Context, customerID, projectID string) (*aikeysv1.ListMembersResponse, error) {
	return m.pages(customerID, projectID).list(ctx)
}

// All iterates over the members of all pages. It fetches pages as needed and stops after an error.
func (m *MembersClient) All(ctx context.Context, customerID, projectID string) iter.Seq2[aikeysv1.Member, error] {
	return m.pages(customerID, projectID).all(ctx)
}

func (m *MembersClient) pages(customerID, projectID string) pages[aikeysv1.ListMembersResponse, aikeysv1.Member] {
	return pagesInProject(m.service, operations.ListMembers(), customerID, projectID,
		func(r *aikeysv1.ListMembersResponse) (*[]aikeysv1.Member, *string) {
			return &r.Members, &r.NextPageToken
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

// GraceDays sets for how many days a removal can be undone, in place of the policy's days, 30 by default. With 0 it can't be undone.
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
// confirmed; with Wait, the service answers when all have. If the user is not a member, it returns ErrNotFound. Owners only.
func (m *MembersClient) Remove(
	ctx context.Context, customerID, projectID, userID string,
) (*aikeysv1.RemoveMemberResponse, error) {
	r := m.service.inProject(operations.RemoveMember(), customerID, projectID, "user_id", userID)
	return send(ctx, r, func(*aikeysv1.RemoveMemberResponse) bool { return true })
}
