package models

import (
	"context"
	"math"

	"gorm.io/gorm"
)

// The hot reads are hand-written, one statement each: session, membership and keys at once. An absent key comes back as a
// row of empty columns.
const (
	keyColumns = `COALESCE(k.id, ''), COALESCE(k.customer_id, ''), COALESCE(k.project_id, ''), COALESCE(k.user_id, ''),
COALESCE(k.provider, ''), COALESCE(k.name, ''), COALESCE(k.display_suffix, ''), COALESCE(k.version, 0),
COALESCE(k.created_at, 0), COALESCE(k.created_by, ''), COALESCE(k.revoked_at, 0), COALESCE(k.revoked_by, ''),
COALESCE(k.revocation_tx, 0), COALESCE(k.last_used_at, 0), COALESCE(k.last_failure_at, 0), COALESCE(k.last_failure_status, 0)`

	getKeySQL = `SELECT ` + callerColumns + `, ` + keyColumns + ` FROM ` + callerJoins + `
LEFT JOIN ai_keys k ON k.id = $6 AND k.customer_id = $3 AND k.project_id = $4 AND (k.user_id = '' OR k.user_id = $5) AND m.role <> ''`

	metadataColumns = `id, customer_id, project_id, user_id, provider, name, display_suffix, version, created_at, created_by, revoked_at, revoked_by,
revocation_tx, last_used_at, last_failure_at, last_failure_status`

	// A page of each scope is read off its own stretch of the index, so that other members' keys cost nothing.
	listFilter  = ` AND id < $6 AND ($7 = '' OR provider = $7) AND ($8 = '' OR (revoked_at = 0) = ($8 = 'active')) ORDER BY id DESC LIMIT $9`
	listKeysSQL = `SELECT ` + callerColumns + `, ` + keyColumns + ` FROM ` + callerJoins + `
LEFT JOIN (
SELECT * FROM (SELECT ` + metadataColumns + ` FROM ai_keys WHERE customer_id = $3 AND project_id = $4 AND user_id = ''` + listFilter + `) AS shared
UNION ALL
SELECT * FROM (SELECT ` + metadataColumns + ` FROM ai_keys WHERE customer_id = $3 AND project_id = $4 AND user_id = $5` + listFilter + `) AS own
) AS k ON m.role <> '' ORDER BY k.id DESC LIMIT $9`
)

func scanKey(row scanner, who *standing, k *Key) error {
	return row.Scan(append([]any{&who.live, &who.role}, keyFields(k)...)...)
}

// keyFields are where keyColumns go.
func keyFields(k *Key) []any {
	return []any{&k.ID, &k.CustomerID, &k.ProjectID, &k.UserID, &k.Provider, &k.Name,
		&k.DisplaySuffix, &versionColumn{&k.Version}, &k.CreatedAt, &k.CreatedBy, &k.RevokedAt, &k.RevokedBy,
		&k.RevocationTx, &k.LastUsedAt, &k.LastFailureAt, &k.LastFailureStatus}
}

// GetKey returns a key's metadata as the caller may see it: ErrSessionEnded, ErrNotMember, or ErrNotFound where it is
// absent, in another project, or another member's own.
func (s *Store) GetKey(ctx context.Context, c Caller, id string, now int64) (Key, error) {
	var (
		who standing
		key Key
	)
	err := s.lookUp(ctx, getKeySQL, append(callerArgs(c, now), id), func(row scanner) error {
		return scanKey(row, &who, &key)
	})
	if err != nil {
		return Key{}, s.classify(err)
	}
	if err := who.check(RoleMember); err != nil {
		return Key{}, err
	}
	if key.ID == "" {
		return Key{}, ErrNotFound
	}
	return key, nil
}

// KeyState selects keys by whether they are revoked. Empty selects all.
type KeyState string

// The states of a key.
const (
	KeyActive  KeyState = "active"
	KeyRevoked KeyState = "revoked"
)

// KeyFilter selects keys. The zero value selects all of them.
type KeyFilter struct {
	Provider string
	State    KeyState
	// Before is the id of the last key of the page before. Empty begins with the newest.
	Before string
	// Limit is the most keys to return. Zero is no limit.
	Limit int
}

// ListKeys returns the project's keys and the caller's own, newest first: ErrSessionEnded or ErrNotMember.
func (s *Store) ListKeys(ctx context.Context, c Caller, f KeyFilter, now int64) ([]Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	before, limit := f.Before, int64(f.Limit)
	if before == "" {
		before = "~" // sorts after every id
	}
	if limit <= 0 {
		limit = math.MaxInt64
	}
	var who standing
	keys := make([]Key, 0, min(limit, 64))
	err := s.query(ctx, listKeysSQL, append(callerArgs(c, now), before, f.Provider, string(f.State), limit),
		func(row scanner) error {
			var k Key
			if err := scanKey(row, &who, &k); err != nil {
				return err
			}
			if k.ID != "" {
				keys = append(keys, k)
			}
			return nil
		})
	if err != nil {
		return nil, s.classify(err)
	}
	return keys, who.check(RoleMember)
}

// Serving are the newest active keys of a provider that could serve a user; either ID is empty where there is none.
type Serving struct {
	Own     Key
	Project Key
}

// ServingKeys returns what could serve the user's requests to provider, without regard to policy. Which of two keys is
// the newer is told by the order in which they were stored, not by a clock.
func (s *Store) ServingKeys(ctx context.Context, c Caller, provider string) (Serving, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	newest := func(userID string) (Key, error) {
		var keys []Key
		err := s.orm(requestPool).WithContext(ctx).Omit("envelope").
			Where("customer_id = ? AND project_id = ? AND user_id = ? AND provider = ? AND revoked_at = 0",
				c.CustomerID, c.ProjectID, userID, provider).
			Order("seq DESC").Limit(1).Find(&keys).Error
		if err != nil || len(keys) == 0 {
			return Key{}, s.classify(err)
		}
		return keys[0], nil
	}
	own, err := newest(c.UserID)
	if err != nil {
		return Serving{}, err
	}
	project, err := newest("")
	return Serving{Own: own, Project: project}, err
}

// ListEvents returns a page of the project's events that user may read, newest first. before is the id of the last event
// of the page before; empty begins with the newest.
func (s *Store) ListEvents(ctx context.Context, c Caller, before string, limit int) ([]Event, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if before == "" {
		before = "~"
	}
	page := func(db *gorm.DB, scope string) *gorm.DB {
		return db.Model(&Event{}).Where("customer_id = ? AND project_id = ? AND scope_user_id = ? AND id < ?",
			c.CustomerID, c.ProjectID, scope, before).Order("id DESC").Limit(limit)
	}
	db := s.orm(requestPool).WithContext(ctx)
	var events []Event
	err := db.Raw("SELECT * FROM (SELECT * FROM (?) AS shared UNION ALL SELECT * FROM (?) AS own) AS e ORDER BY id DESC LIMIT ?",
		page(db, ""), page(db, c.UserID), limit).Scan(&events).Error
	return events, s.classify(err)
}

// ListMembers returns members by user id, those after the given one. Limit zero is no limit.
func (s *Store) ListMembers(ctx context.Context, c Caller, after string, limit int) ([]Member, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if limit == 0 {
		limit = -1
	}
	var members []Member
	err := s.orm(requestPool).WithContext(ctx).Where("customer_id = ? AND project_id = ? AND user_id > ?", c.CustomerID, c.ProjectID, after).
		Order("user_id").Limit(limit).Find(&members).Error
	return members, s.classify(err)
}

// Policy returns the project's policy, the default where none was written.
func (s *Store) Policy(ctx context.Context, c Caller) (Policy, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var rows []Policy
	err := s.orm(requestPool).WithContext(ctx).Where("customer_id = ? AND project_id = ?", c.CustomerID, c.ProjectID).Limit(1).Find(&rows).Error
	if err != nil || len(rows) == 0 {
		return DefaultPolicy(c.CustomerID, c.ProjectID), s.classify(err)
	}
	return rows[0], nil
}

// FindToken returns the API key with that id, revoked or not: ErrNotFound.
func (s *Store) FindToken(ctx context.Context, id string) (Token, error) {
	var t Token
	err := s.lookUp(ctx, sessionSQL, []any{id}, func(row scanner) error {
		return row.Scan(&t.ID, &t.Hash, &t.CustomerID, &t.ProjectID, &t.UserID, &t.CreatedAt, &t.ExpiresAt, &t.RevokedAt)
	})
	if err == nil && t.ID == "" {
		err = ErrNotFound
	}
	return t, s.classify(err)
}

// sessionSQL is what each session's first request runs, and the next after a moment.
const sessionSQL = `SELECT id, hash, customer_id, project_id, user_id, created_at, expires_at, revoked_at FROM api_tokens WHERE id = $1`

// ListTokens returns a project's API keys by age, those of one user unless userID is empty.
func (s *Store) ListTokens(ctx context.Context, customerID, projectID, userID string) ([]Token, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	db := s.orm(requestPool).WithContext(ctx).Where("customer_id = ? AND project_id = ?", customerID, projectID)
	if userID != "" {
		db = db.Where("user_id = ?", userID)
	}
	var tokens []Token
	err := db.Order("id").Find(&tokens).Error
	return tokens, s.classify(err)
}

// Canary returns the sealed canary: ErrNotFound before the first start.
func (s *Store) Canary(ctx context.Context) (Canary, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var c Canary
	err := s.orm(requestPool).WithContext(ctx).Where("id = 1").Take(&c).Error
	return c, s.classify(err)
}
