package models

import "context"

// Caller is the user for whom a method acts, and the project. The project must be one of the session's customer: user ids
// mean something only within their customer.
type Caller struct {
	CustomerID string
	ProjectID  string
	UserID     string
	// TokenID is the API key in use. It is empty for a session token, which can't be revoked here.
	TokenID string
}

// CallerParams are the first five parameters of every statement with CallerColumns and CallerTables.
func CallerParams(c Caller, now int64) Params {
	return Params{c.TokenID, now, c.CustomerID, c.ProjectID, c.UserID}
}

// What a hand-written statement selects to check its caller: one row comes back for any caller, with whether their session is
// live, and their role, empty for a stranger.
const (
	CallerColumns = `($1 = '' OR t.id IS NOT NULL) AS live, COALESCE(m.role, '') AS role`
	CallerTables  = `(SELECT 1) AS one
LEFT JOIN api_tokens t ON t.id = $1 AND t.revoked_at = 0 AND (t.expires_at = 0 OR t.expires_at > $2)
LEFT JOIN project_members m ON m.customer_id = $3 AND m.project_id = $4 AND m.user_id = $5`

	// CallerStatement selects the caller's status alone.
	CallerStatement = `SELECT ` + CallerColumns + ` FROM ` + CallerTables
)

// CallerStatus is what a statement found of its caller.
type CallerStatus struct {
	// Live reports whether the session is good.
	Live bool
	Role Role
}

// Check returns nil if the caller may do what needs a role.
func (s CallerStatus) Check(needs Role) error {
	switch {
	case !s.Live:
		return ErrSessionEnded
	case s.Role == "":
		return ErrNotMember
	case !s.Role.Covers(needs):
		return ErrForbidden
	}
	return nil
}

// Role returns the caller's role. Errors: ErrSessionEnded, ErrNotMember.
func (s *Store) Role(ctx context.Context, c Caller, now int64) (Role, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var status CallerStatus
	// Hand-written: a request of every project asks for it.
	err := s.engine.QueryRow(ctx, CallerStatement, CallerParams(c, now), &status.Live, &status.Role)
	if err != nil {
		return "", s.classify(err)
	}
	return status.Role, status.Check(RoleMember)
}
