package models

import (
	"context"

	"github.com/agentrouter/aikeys/internal/position"
)

// Change is an act that was carried out, as data planes are told of it.
type Change struct {
	// Tx is the number of the transaction that made it.
	Tx         int64
	Type       EventType
	CustomerID string
	ProjectID  string
	// UserID is whose own key, membership or API key it is about; empty where it is about the project.
	UserID   string
	KeyID    string
	TokenID  string
	Provider string
}

// ChangeColumns select a Change from an event. An event is about the user of its scope, else about its member.
const ChangeColumns = `tx, type, customer_id, project_id, CASE WHEN scope_user_id <> '' THEN scope_user_id ELSE member_id END AS user_id,
key_id, token_id, provider`

// ChangesStatement returns a statement that selects the expression now once, and beside it the changes that unseen selects. A row
// with an empty Change comes even when there are none. Both are of one snapshot. It is hand-written since every heartbeat and
// every resumed stream runs it, and since GORM has no words for it.
func ChangesStatement(now, unseen string) string {
	return `SELECT ` + now + `, COALESCE(c.tx, 0), COALESCE(c.type, ''), COALESCE(c.customer_id, ''), COALESCE(c.project_id, ''),
COALESCE(c.user_id, ''), COALESCE(c.key_id, ''), COALESCE(c.token_id, ''), COALESCE(c.provider, '')
FROM (SELECT 1) AS one LEFT JOIN (` + unseen + `) AS c ON 1 = 1`
}

// ScanChange reads a row of ChangesStatement.
func ScanChange(row Row, now *string, changes *[]Change) error {
	var c Change
	if err := row.Scan(now, &c.Tx, &c.Type, &c.CustomerID, &c.ProjectID, &c.UserID, &c.KeyID, &c.TokenID, &c.Provider); err != nil {
		return err
	}
	if c.Type != "" {
		*changes = append(*changes, c)
	}
	return nil
}

// Changes returns what was committed since a position, and the position as of now: the two differ by exactly these changes,
// whatever order their transactions committed in and whatever is still running. If there are more than limit changes, it returns
// limit of them. A position that ends before since shows that the database was put back to an earlier state.
func (s *Store) Changes(ctx context.Context, since position.Position, limit int) ([]Change, position.Position, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	changes, now, err := s.engine.Changes(ctx, since, limit)
	if err != nil {
		return nil, position.Position{}, s.classify(err)
	}
	return changes[:min(len(changes), limit)], now, nil
}

// Position returns what is committed now.
func (s *Store) Position(ctx context.Context) (position.Position, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	now, err := s.engine.Position(ctx)
	return now, s.classify(err)
}
