package models

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Token is one of our API keys. Only a hash of its secret is stored.
type Token struct {
	// ID is a ULID, which is part of the token's text.
	ID string `gorm:"primaryKey"`
	// Hash is the SHA-256 of the token's secret part, 32 bytes.
	Hash []byte
	// CustomerID, ProjectID and UserID are the session that the token opens.
	CustomerID string
	ProjectID  string
	UserID     string
	// Name is for people. It is empty for API keys that operators made.
	Name string
	// Projects are the projects that it may act in, within its user's roles; empty for every project.
	Projects IDSet
	// Barred are projects that it may no longer act in.
	Barred IDSet
	// ParentID is the API key that it was made with; empty if it was made with a session token or by an operator.
	ParentID string
	// CreatedAt, ExpiresAt, LastUsedAt and RevokedAt are microseconds since the Unix epoch. In the last three, zero
	// means never. LastUsedAt may be up to TokenUseInterval older than the last use.
	CreatedAt  int64 `gorm:"autoCreateTime:false"`
	ExpiresAt  int64
	LastUsedAt int64
	RevokedAt  int64
	RevokedBy  string
	// RevocationTx is the number of the transaction that revoked it, and BarTx is the number of the last transaction
	// that barred it from a project.
	RevocationTx int64
	BarredAt     int64
	BarredBy     string
	BarTx        int64
}

// TableName is the table's name.
func (Token) TableName() string { return "api_tokens" }

// Live reports whether the token opens a session at a time (microseconds).
func (t Token) Live(now int64) bool {
	return t.RevokedAt == 0 && (t.ExpiresAt == 0 || t.ExpiresAt > now)
}

// Reaches reports whether the token may act in a project if its user is a member there.
func (t Token) Reaches(projectID string) bool {
	return (t.Projects == "" || t.Projects.Has(projectID)) && !t.Barred.Has(projectID)
}

// isLimited reports whether the token may not act in every project of its user.
func (t Token) isLimited() bool { return t.Projects != "" || t.Barred != "" }

// covers reports whether the token may act in every project in which another token of its user may act, and expires no
// earlier than the other token.
func (t Token) covers(other Token) bool {
	if t.ExpiresAt != 0 && (other.ExpiresAt == 0 || other.ExpiresAt > t.ExpiresAt) || t.isLimited() && other.Projects == "" {
		return false
	}
	return !slices.ContainsFunc(other.Projects.List(), func(id string) bool { return !t.Reaches(id) })
}

// manages reports whether a session of the token may list and revoke another token of its user. A limited token manages
// itself and the tokens that were made with it.
func (t Token) manages(other Token) bool {
	return !t.isLimited() || other.ID == t.ID || other.ParentID == t.ID
}

// Stop returns the token's revocation or, if it is not revoked, the change that last barred it from a project.
func (t Token) Stop() Stop {
	number := t.BarTx
	if t.RevokedAt != 0 {
		number = t.RevocationTx
	}
	return Stop{EventTokenRevoked, t.ID, t.CustomerID, number}
}

// IDSet is a set of ids in the form of its column: a space before and after each id.
type IDSet string

// NewIDSet returns a set of ids, sorted.
func NewIDSet(ids ...string) IDSet {
	if len(ids) == 0 {
		return ""
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	return IDSet(" " + strings.Join(ids, " ") + " ")
}

// List returns the ids.
func (p IDSet) List() []string { return strings.Fields(string(p)) }

// Has reports whether the set has an id.
func (p IDSet) Has(id string) bool { return strings.Contains(string(p), " "+id+" ") }

// With returns the set with an id.
func (p IDSet) With(id string) IDSet { return NewIDSet(append(p.List(), id)...) }

// Without returns the set without an id.
func (p IDSet) Without(id string) IDSet {
	return NewIDSet(slices.DeleteFunc(p.List(), func(s string) bool { return s == id })...)
}

// ListTokens returns a project's API keys, oldest first, without hashes. With a userID, it returns only that user's.
func (s *Store) ListTokens(ctx context.Context, customerID, projectID, userID string) ([]Token, error) {
	return find[Token](ctx, s, func(db *gorm.DB) *gorm.DB {
		db = db.Omit("hash").Where("customer_id = ? AND project_id = ?", customerID, projectID)
		return whereEqual(db, "user_id", userID).Order("id")
	})
}

// TokenFilter selects a page of API keys, newest first.
type TokenFilter struct {
	// Live leaves out tokens that are revoked or have expired.
	Live bool
	// Before is the id of the last token of the previous page. Empty begins with the newest.
	Before string
	Limit  int
}

func (f TokenFilter) apply(db *gorm.DB, now int64) *gorm.DB {
	if f.Live {
		db = db.Where("t.revoked_at = 0 AND (t.expires_at = 0 OR t.expires_at > ?)", now)
	}
	if f.Before != "" {
		db = db.Where("t.id < ?", f.Before)
	}
	return db.Order("t.id DESC").Limit(f.Limit)
}

// ListOwnTokens returns a page of the caller's API keys that their session manages, without hashes. Errors:
// ErrSessionEnded.
func (s *Store) ListOwnTokens(ctx context.Context, c Caller, f TokenFilter, now int64) (tokens []Token, err error) {
	err = s.read(ctx, func(db *gorm.DB) error {
		mine, err := ownToken(db, c, now)
		if err != nil {
			return err
		}
		own := db.Table("api_tokens AS t").Omit("hash").Where("t.customer_id = ? AND t.user_id = ?", c.CustomerID, c.UserID)
		if mine.isLimited() {
			own = own.Where("(t.id = ? OR t.parent_id = ?)", mine.ID, mine.ID)
		}
		return f.apply(own, now).Find(&tokens).Error
	})
	return tokens, err
}

// ownToken returns the API key of the caller's session. For a session token it returns the zero Token, which is not
// limited. Errors: ErrSessionEnded.
func ownToken(db *gorm.DB, c Caller, now int64) (t Token, err error) {
	if c.TokenID == "" {
		return t, nil
	}
	err = db.Omit("hash").Where("id = ? AND customer_id = ? AND user_id = ?", c.TokenID, c.CustomerID, c.UserID).
		Where(whereLive, now).Take(&t).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		err = ErrSessionEnded
	}
	return t, err
}

// projectTokens selects the API keys t of the project's members, including those that may not act in the project.
func projectTokens(db *gorm.DB, c Caller) *gorm.DB {
	return db.Table("api_tokens AS t").Omit("hash").
		Joins("JOIN project_members m ON m.customer_id = t.customer_id AND m.user_id = t.user_id").
		Where("t.customer_id = ? AND m.project_id = ?", c.CustomerID, c.ProjectID)
}

// ListProjectTokens returns a page of the members' API keys that may act in the project, without hashes. The caller
// must check that the user is an owner.
func (s *Store) ListProjectTokens(ctx context.Context, c Caller, f TokenFilter, now int64) ([]Token, error) {
	reaches := strings.NewReplacer("$1", "'key'", "$4", "m.project_id").Replace(TokenReaches)
	return find[Token](ctx, s, func(db *gorm.DB) *gorm.DB {
		return f.apply(projectTokens(db, c).Where(reaches), now).Select("t.*")
	})
}

// Membership is a project in which a user has a role.
type Membership struct {
	ProjectID string
	Role      Role
	CreatedAt int64
}

// ListProjects returns a page of the projects in which the caller may act, in the order of their ids. after is the last
// project of the previous page. Errors: ErrSessionEnded.
func (s *Store) ListProjects(ctx context.Context, c Caller, after string, limit int, now int64) (list []Membership, err error) {
	err = s.read(ctx, func(db *gorm.DB) error {
		mine, err := ownToken(db, c, now)
		if err != nil {
			return err
		}
		db = db.Model(&Member{}).Where("customer_id = ? AND user_id = ? AND project_id > ?", c.CustomerID, c.UserID, after)
		if mine.Projects != "" {
			db = db.Where("project_id IN ?", mine.Projects.List())
		}
		if mine.Barred != "" {
			db = db.Where("project_id NOT IN ?", mine.Barred.List())
		}
		return db.Order("project_id").Limit(limit).Find(&list).Error
	})
	return list, err
}

// TokenUseInterval is how often at most LastUsedAt is stored.
const TokenUseInterval = 5 * time.Minute

// MarkTokensUsed stores when API keys were last used (microseconds, by id), unless a later use is stored.
func (s *Store) MarkTokensUsed(ctx context.Context, uses map[string]int64) error {
	return s.Transact(ctx, func(tx *Tx) error {
		for _, id := range slices.Sorted(maps.Keys(uses)) { // in one order, so that two replicas don't deadlock
			if _, err := tx.exec(`UPDATE api_tokens SET last_used_at = $1 WHERE id = $2 AND last_used_at < $1`, []any{uses[id], id}); err != nil {
				return err
			}
		}
		return nil
	})
}

// CreateToken stores an API key.
func (tx *Tx) CreateToken(t Token) error { return tx.db.Create(&t).Error }

// FitToken limits a new API key of the caller in the same way as the API key in use, where the request sets no limit.
// If t has no projects, it gets those of the API key in use. If hasEnd is false, t expires no later than the API key in
// use. Errors: ErrSessionEnded.
func (tx *Tx) FitToken(c Caller, t *Token, hasEnd bool) error {
	mine, err := ownToken(tx.db, c, tx.Now)
	if err != nil {
		return err
	}
	if t.Projects == "" && mine.Projects != "" {
		t.Projects = NewIDSet(slices.DeleteFunc(mine.Projects.List(), func(id string) bool { return !mine.Reaches(id) })...)
	}
	if t.Projects != "" && !t.Projects.Has(t.ProjectID) {
		t.ProjectID = t.Projects.List()[0]
	}
	if !hasEnd && mine.ExpiresAt != 0 {
		t.ExpiresAt = min(t.ExpiresAt, mine.ExpiresAt)
	}
	return nil
}

// whereLive is the condition that an API key or a data plane's credential is live at a time.
const whereLive = "revoked_at = 0 AND (expires_at = 0 OR expires_at > ?)"

// maxTokensADay bounds how many API keys a user can make within 24 hours, since expired ones stay in the table.
const maxTokensADay = 1000

// CreateOwnToken stores an API key of the caller. The caller may have at most quota live API keys, and may make at most
// maxTokensADay. Errors: ErrSessionEnded, ErrNotMember for a project of the new API key, ErrForbidden if the new API
// key would reach further than the API key in use or outlive it, ErrQuotaExceeded.
func (tx *Tx) CreateOwnToken(c Caller, t Token, quota int64) error {
	for _, id := range t.Projects.With(t.ProjectID).List() { // sorted, so that two such transactions don't deadlock
		if _, err := tx.Role(Caller{CustomerID: c.CustomerID, ProjectID: id, UserID: c.UserID, TokenID: c.TokenID}); err != nil {
			return err
		}
	}
	// The removal of the user from any project waits for this lock, and then finds the new API key.
	err := tx.db.Clauses(clause.Locking{Strength: "SHARE"}).Where("customer_id = ? AND user_id = ?", c.CustomerID, c.UserID).Find(&[]Member{}).Error
	if err != nil {
		return err
	}
	mine, err := ownToken(tx.locking(), c, tx.Now)
	if err != nil {
		return err
	}
	if !mine.covers(t) {
		return ErrForbidden
	}
	own := func() *gorm.DB {
		return tx.db.Model(&Token{}).Where("customer_id = ? AND user_id = ?", c.CustomerID, c.UserID)
	}
	var live, recent int64
	if err := own().Where(whereLive, tx.Now).Count(&live).Error; err != nil {
		return err
	}
	if err := own().Where("created_at > ?", tx.Now-(24*time.Hour).Microseconds()).Count(&recent).Error; err != nil {
		return err
	}
	if live >= quota || recent >= maxTokensADay {
		return ErrQuotaExceeded
	}
	return tx.CreateToken(t)
}

// RevokeToken revokes an API key and returns it. It stores the event that tells data planes, with the token and its
// user filled in. Revoking a revoked key changes nothing. Errors: ErrNotFound.
func (tx *Tx) RevokeToken(customerID, projectID, id string, event Event) (Token, error) {
	t, err := tx.lockToken(customerID, id)
	if err == nil && t.ProjectID != projectID {
		err = ErrNotFound
	}
	if err != nil {
		return Token{}, err
	}
	err = tx.endToken(&t, event)
	return t, err
}

// RevokeOwnToken revokes an API key of the caller that their session manages, and returns it. With cascade, it also
// revokes the API keys that were made with it. Errors: ErrSessionEnded, ErrNotFound.
func (tx *Tx) RevokeOwnToken(c Caller, id string, cascade bool, newEvent func(Token) Event) (Token, Stop, error) {
	mine, err := ownToken(tx.db, c, tx.Now)
	if err != nil {
		return Token{}, Stop{}, err
	}
	return tx.endTokens(c, id, cascade,
		func(t Token) bool { return t.UserID == c.UserID && mine.manages(t) },
		func(t *Token) error { return tx.endToken(t, newEvent(*t)) })
}

// RevokeProjectToken bars a member's API key from the project, and returns it. An API key that may act in no other
// project is revoked. The caller must check that the user is an owner. Errors: ErrNotFound.
func (tx *Tx) RevokeProjectToken(c Caller, id string, cascade bool, newEvent func(Token) Event) (Token, Stop, error) {
	var member Token
	if err := projectTokens(tx.db, c).Where("t.id = ?", id).Select("t.*").Take(&member).Error; err != nil {
		return Token{}, Stop{}, err
	}
	user := Caller{CustomerID: c.CustomerID, UserID: member.UserID}
	return tx.endTokens(user, id, cascade,
		func(t Token) bool { return t.Reaches(c.ProjectID) || t.Barred.Has(c.ProjectID) },
		func(t *Token) error {
			if err := tx.keepBarred(*t, c.ProjectID); err != nil {
				return err
			}
			return tx.barToken(t, c.ProjectID, newEvent(*t))
		})
}

// endTokens locks a user's API key and, if may allows it, ends the API key. With cascade, it also ends the live API
// keys that were made with it, directly or indirectly. It returns the API key and the last stop: a data plane that has
// acted on the last stop has acted on all of them. Errors: ErrNotFound.
func (tx *Tx) endTokens(user Caller, id string, cascade bool, may func(Token) bool, end func(*Token) error) (Token, Stop, error) {
	if cascade {
		// Every transaction that locks several API keys of a user first locks all of the user's live API keys, in the
		// order of their ids. So two such transactions don't deadlock.
		err := tx.locking().Select("id").Where("customer_id = ? AND user_id = ?", user.CustomerID, user.UserID).
			Where(whereLive, tx.Now).Order("id").Find(&[]Token{}).Error
		if err != nil {
			return Token{}, Stop{}, err
		}
	}
	t, err := tx.lockToken(user.CustomerID, id)
	if err == nil && !may(t) {
		err = ErrNotFound
	}
	family, last := []Token{t}, Stop{}
	if err == nil && cascade {
		var made []Token
		made, last, err = tx.lockMadeWith(t)
		family = append(family, made...)
	}
	if err != nil {
		return Token{}, Stop{}, err
	}
	for i := range slices.Backward(family) {
		if err := end(&family[i]); err != nil {
			return Token{}, Stop{}, err
		}
		if stop := family[i].Stop(); stop.Tx >= last.Tx {
			last = stop
		}
	}
	return family[0], last, nil
}

// lockMadeWith locks and returns the live tokens that were made with a locked token, directly or indirectly. last is
// the last stop of such tokens that are no longer live. lockMadeWith searches until it finds no more tokens: if another
// transaction is making a token, a search finds this token once its parent is locked.
func (tx *Tx) lockMadeWith(t Token) (made []Token, last Stop, err error) {
	own := func(db *gorm.DB) *gorm.DB {
		return db.Where("customer_id = ? AND user_id = ?", t.CustomerID, t.UserID).Order("id")
	}
	for known := -1; ; {
		var all, live []Token
		err = own(tx.db).Select("id", "parent_id", "revoked_at", "revocation_tx", "barred_at", "bar_tx").Find(&all).Error
		if err == nil {
			err = own(tx.locking()).Omit("hash").Where(whereLive, tx.Now).Find(&live).Error
		}
		if err != nil {
			return nil, last, err
		}
		madeWith := map[string][]Token{}
		for _, other := range all {
			madeWith[other.ParentID] = append(madeWith[other.ParentID], other)
		}
		made = nil
		for family := []Token{t}; len(family) > 0; family = family[1:] {
			next := madeWith[family[0].ID]
			for _, other := range next {
				if at := slices.IndexFunc(live, func(l Token) bool { return l.ID == other.ID }); at >= 0 {
					made = append(made, live[at])
				} else if stop := other.Stop(); stop.Tx > last.Tx {
					last = stop
				}
			}
			family = append(family, next...)
		}
		if len(made) == known {
			return made, last, nil
		}
		known = len(made)
	}
}

// lockToken returns an API key, which no other transaction can change or use until this one ends. Errors: ErrNotFound.
func (tx *Tx) lockToken(customerID, id string) (t Token, err error) {
	err = tx.locking().Omit("hash").Where("id = ? AND customer_id = ?", id, customerID).Take(&t).Error
	return t, err
}

// endToken revokes a token that is not revoked yet, and stores the event.
func (tx *Tx) endToken(t *Token, event Event) error {
	if t.RevokedAt != 0 {
		return nil
	}
	return tx.stopToken(t, map[string]any{"revoked_at": tx.Now, "revoked_by": event.ActorUserID, "revocation_tx": gorm.Expr(tx.number)}, event)
}

// barToken bars a token from a project, and stores the event.
func (tx *Tx) barToken(t *Token, projectID string, event Event) error {
	if !t.Reaches(projectID) {
		return nil
	}
	if t.Projects == NewIDSet(projectID) {
		return tx.endToken(t, event)
	}
	return tx.stopToken(t, map[string]any{"barred": t.Barred.With(projectID), "barred_at": tx.Now, "barred_by": event.ActorUserID,
		"bar_tx": gorm.Expr(tx.number)}, event)
}

// stopToken changes columns of a token, and stores the event that tells data planes.
func (tx *Tx) stopToken(t *Token, columns map[string]any, event Event) error {
	if err := tx.db.Model(&Token{}).Where("id = ?", t.ID).Updates(columns).Error; err != nil {
		return err
	}
	if err := tx.db.Omit("hash").Where("id = ?", t.ID).Take(t).Error; err != nil {
		return err
	}
	event.TokenID, event.MemberID = t.ID, t.UserID
	return tx.AppendEvent(event)
}
