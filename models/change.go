package models

import (
	"context"
	"fmt"
	"strings"
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

// The columns of a Change. An event is about the user of its scope, else about its member.
const changeColumns = `tx, type, customer_id, project_id, CASE WHEN scope_user_id <> '' THEN scope_user_id ELSE member_id END AS user_id, key_id, token_id, provider`

// changesSQL joins the changes that are not in a position to the position that the statement itself sees, which comes even
// when there are none.
func changesSQL(position, unseen string) string {
	return `SELECT ` + position + `, COALESCE(c.tx, 0), COALESCE(c.type, ''), COALESCE(c.customer_id, ''), COALESCE(c.project_id, ''),
COALESCE(c.user_id, ''), COALESCE(c.key_id, ''), COALESCE(c.token_id, ''), COALESCE(c.provider, '')
FROM (SELECT 1) AS one LEFT JOIN (` + unseen + `) AS c ON 1 = 1`
}

// Changes returns what was committed since a position, and the position as of now: the two differ by exactly these
// changes, whatever order their transactions committed in and whatever else is still at work. More than limit changes are
// cut short, at limit. A position that ends before since tells that the database was put back to an earlier state.
func (s *Store) Changes(ctx context.Context, since Position, limit int) ([]Change, Position, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var (
		changes []Change
		text    string
	)
	sql, args := s.changes(since, limit)
	err := s.aside(ctx, sql, args, func(row scanner) error {
		var c Change
		if err := row.Scan(&text, &c.Tx, &c.Type, &c.CustomerID, &c.ProjectID, &c.UserID, &c.KeyID, &c.TokenID, &c.Provider); err != nil {
			return err
		}
		if c.Type != "" {
			changes = append(changes, c)
		}
		return nil
	})
	if err != nil {
		return nil, Position{}, s.classify(err)
	}
	now, err := seen(text)
	if err != nil {
		return nil, Position{}, fmt.Errorf("changes: %w", err)
	}
	return changes[:min(len(changes), limit)], now, nil
}

// Position returns what the database holds now.
func (s *Store) Position(ctx context.Context) (Position, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var text string
	err := s.aside(ctx, "SELECT "+s.position(), nil, func(row scanner) error { return row.Scan(&text) })
	if err != nil {
		return Position{}, s.classify(err)
	}
	return seen(text)
}

// seen reads what an engine's expression for the position says: a position, and after a slash, where there is one, the number
// of the newest event in it, with which it then ends.
func seen(text string) (Position, error) {
	text, newest, bounded := strings.Cut(text, "/")
	p, err := ParsePosition(text)
	if err != nil || !bounded {
		return p, err
	}
	return p.below(number(newest) + 1), nil
}

// On Postgres a transaction's number is its xid, which a snapshot tells seen from unseen. Numbers from the snapshot's xmax
// on can only stem from another server, whose backup this one was made of.
//
// A server that crashed gives numbers out again: those above the last that had reached its disk. That of an event had, since
// nobody sees it sooner. So a position ends with the newest event; whatever comes above is not in it, and is found.
const (
	postgresTx       = `pg_current_xact_id()::text::bigint`
	postgresXmax     = `pg_snapshot_xmax(pg_current_snapshot())::text::bigint`
	postgresPosition = `pg_current_snapshot()::text || '/' || COALESCE((SELECT MAX(tx) FROM events WHERE tx < ` + postgresXmax + `), 0)`
	postgresUnseen   = `(SELECT ` + changeColumns + ` FROM events
WHERE tx >= $1 AND tx < ` + postgresXmax + ` AND outcome = 'allowed' ORDER BY tx LIMIT $3)
UNION ALL
(SELECT ` + changeColumns + ` FROM events WHERE tx = ANY($2::bigint[]) AND outcome = 'allowed' ORDER BY tx LIMIT $3)`
)

func (p *postgresEngine) txNumber() string { return postgresTx }
func (p *postgresEngine) position() string { return postgresPosition }

func (p *postgresEngine) changes(since Position, limit int) (string, []any) {
	return postgresChanges, []any{since.Xmax, since.Open, limit}
}

var postgresChanges = changesSQL(postgresPosition, postgresUnseen)

// On SQLite, events are numbered as they are written, by the one writer: they commit in that order.
const (
	sqliteTx       = `(SELECT COALESCE(MAX(tx), 0) + 1 FROM events)`
	sqlitePosition = `(SELECT (COALESCE(MAX(tx), 0) + 1) || ':' || (COALESCE(MAX(tx), 0) + 1) || ':' FROM events)`
	sqliteUnseen   = `SELECT ` + changeColumns + ` FROM events WHERE tx >= $1 AND outcome = 'allowed' ORDER BY tx LIMIT $2`
)

func (e *sqliteEngine) txNumber() string { return sqliteTx }
func (e *sqliteEngine) position() string { return sqlitePosition }

func (e *sqliteEngine) changes(since Position, limit int) (string, []any) {
	return sqliteChanges, []any{since.Xmax, limit}
}

var sqliteChanges = changesSQL(sqlitePosition, sqliteUnseen)

var sqliteFetch, sqliteFetchByID = fetchSQL(sqlitePosition, sqliteNewest)

func (e *sqliteEngine) fetchSQL() (forCaller, byID string) { return sqliteFetch, sqliteFetchByID }
