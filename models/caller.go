package models

import "context"

// Caller is on whose behalf a method acts, and on which project. The project must be one of the session's customer:
// user ids mean something only within their customer.
type Caller struct {
	CustomerID string
	ProjectID  string
	UserID     string
	// TokenID is the API key in use. Empty for a session token, which can't be revoked here.
	TokenID string
}

// callerArgs are the first five parameters of every statement that begins with callerColumns and callerJoins.
func callerArgs(c Caller, now int64) []any {
	return []any{c.TokenID, now, c.CustomerID, c.ProjectID, c.UserID}
}

// One row comes back whatever the caller is: whether their session is live, and their role, empty for a stranger.
const (
	callerColumns = `($1 = '' OR t.id IS NOT NULL) AS live, COALESCE(m.role, '') AS role`
	callerJoins   = `(SELECT 1) AS one
LEFT JOIN api_tokens t ON t.id = $1 AND t.revoked_at = 0 AND (t.expires_at = 0 OR t.expires_at > $2)
LEFT JOIN project_members m ON m.customer_id = $3 AND m.project_id = $4 AND m.user_id = $5`

	roleSQL = `SELECT ` + callerColumns + ` FROM ` + callerJoins
)

type standing struct {
	live bool
	role Role
}

func (s standing) check(needs Role) error {
	switch {
	case !s.live:
		return ErrSessionEnded
	case s.role == "":
		return ErrNotMember
	case !s.role.Covers(needs):
		return ErrForbidden
	}
	return nil
}

// Role returns the caller's role: ErrSessionEnded when their API key is no longer good, ErrNotMember for a stranger.
func (s *Store) Role(ctx context.Context, c Caller, now int64) (Role, error) {
	var who standing
	err := s.lookUp(ctx, roleSQL, callerArgs(c, now), func(row scanner) error {
		return row.Scan(&who.live, &who.role)
	})
	if err != nil {
		return "", s.classify(err)
	}
	return who.role, who.check(RoleMember)
}
