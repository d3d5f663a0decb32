package models

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Token is an API key of ours. Only a hash of its secret is stored.
type Token struct {
	// ID is the bare ULID that the token's text carries; the row is found by it.
	ID string `gorm:"primaryKey"`
	// Hash is the SHA-256 of the token's secret part, 32 bytes.
	Hash []byte
	// CustomerID, ProjectID and UserID are the session that the token opens.
	CustomerID string
	ProjectID  string
	UserID     string
	// Name is for people. It is empty for the API keys that operators make.
	Name string
	// Projects are those that it may act in, its user's role in them allowing; empty for every project.
	Projects IDSet
	// Barred are projects that it may not act in any longer.
	Barred IDSet
	// ParentID is the API key that it was made with; empty if it was made with a session token or by an operator.
	ParentID string
	// CreatedAt, ExpiresAt, LastUsedAt and RevokedAt are microseconds since the Unix epoch; zero means never for the last three.
	// LastUsedAt is up to TokenUseInterval older than the last use.
	CreatedAt  int64 `gorm:"autoCreateTime:false"`
	ExpiresAt  int64
	LastUsedAt int64
	RevokedAt  int64
	RevokedBy  string
	// RevocationTx is the number of the transaction that revoked it. BarTx is that of the last transaction that barred it from a project.
	RevocationTx int64
	BarredAt     int64
	BarredBy     string
	BarTx        int64
}

// TableName is the table's name.
func (Token) TableName() string { return "api_tokens" }

// Live reports whether the token opens a session at now (microseconds).
func (t Token) Live(now int64) bool {
	return t.RevokedAt == 0 && (t.ExpiresAt == 0 || t.ExpiresAt > now)
}

// Reaches reports whether the token's lists allow that it acts in a project. Its user must be a member, too.
func (t Token) Reaches(projectID string) bool {
	return (t.Projects == "" || t.Projects.Has(projectID)) && !t.Barred.Has(projectID)
}

// IsLimited reports whether the token may not act in every project of its user's.
func (t Token) IsLimited() bool { return t.Projects != "" || t.Barred != "" }

// Covers reports whether the token may act wherever another one of its user's may, and for as long.
func (t Token) Covers(other Token) bool {
	if t.ExpiresAt != 0 && (other.ExpiresAt == 0 || other.ExpiresAt > t.ExpiresAt) || t.IsLimited() && other.Projects == "" {
		return false
	}
	return !slices.ContainsFunc(other.Projects.List(), func(id string) bool { return !t.Reaches(id) })
}

// Manages reports whether the token may be used to list and revoke another one of its user's. A limited one manages itself and those that
// were made with it.
func (t Token) Manages(other Token) bool {
	return !t.IsLimited() || other.ID == t.ID || other.ParentID == t.ID
}

// Stop returns the token's revocation, or else the change that last barred it from a project.
func (t Token) Stop() Stop {
	number := t.BarTx
	if t.RevokedAt != 0 {
		number = t.RevocationTx
	}
	return Stop{EventTokenRevoked, t.ID, t.CustomerID, number}
}

// IDSet is a set of ids as its column holds it: each has a space before and after it.
type IDSet string

// NewIDSet returns the set of some ids, sorted.
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

// ListTokens returns a project's API keys by age, without hashes, those of one user unless userID is empty.
func (s *Store) ListTokens(ctx context.Context, customerID, projectID, userID string) ([]Token, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	db := s.orm(ctx).Omit("hash").Where("customer_id = ? AND project_id = ?", customerID, projectID)
	if userID != "" {
		db = db.Where("user_id = ?", userID)
	}
	var tokens []Token
	err := db.Order("id").Find(&tokens).Error
	return tokens, s.classify(err)
}

// TokenFilter selects a page of API keys, newest first.
type TokenFilter struct {
	// Live leaves out tokens that are revoked or have expired.
	Live bool
	// Before is the id of the last one of the page before. Empty begins with the newest.
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

// ListOwnTokens returns a page of the API keys of the caller that their session manages, without hashes: ErrSessionEnded.
func (s *Store) ListOwnTokens(ctx context.Context, c Caller, f TokenFilter, now int64) ([]Token, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	mine, err := ownToken(s.orm(ctx), c, now)
	if err != nil {
		return nil, s.classify(err)
	}
	db := s.orm(ctx).Table("api_tokens AS t").Omit("hash").Where("t.customer_id = ? AND t.user_id = ?", c.CustomerID, c.UserID)
	if mine.IsLimited() {
		db = db.Where("(t.id = ? OR t.parent_id = ?)", mine.ID, mine.ID)
	}
	var tokens []Token
	err = f.apply(db, now).Find(&tokens).Error
	return tokens, s.classify(err)
}

// ownToken returns the API key of the caller's session, or the zero Token, which is not limited, for a session token: ErrSessionEnded.
func ownToken(db *gorm.DB, c Caller, now int64) (Token, error) {
	if c.TokenID == "" {
		return Token{}, nil
	}
	var found []Token
	err := db.Omit("hash").Where("id = ? AND customer_id = ? AND user_id = ?", c.TokenID, c.CustomerID, c.UserID).Find(&found).Error
	if err == nil && (len(found) == 0 || !found[0].Live(now)) {
		err = ErrSessionEnded
	}
	if err != nil {
		return Token{}, err
	}
	return found[0], nil
}

// projectTokens selects the API keys t that members of the project may act in it with.
func projectTokens(db *gorm.DB, c Caller) *gorm.DB {
	return db.Table("api_tokens AS t").Omit("hash").
		Joins("JOIN project_members m ON m.customer_id = t.customer_id AND m.user_id = t.user_id").
		Where("t.customer_id = ? AND m.project_id = ?", c.CustomerID, c.ProjectID)
}

// ListProjectTokens returns a page of the API keys with which members may act in the project, without hashes. The caller must check that
// the user is an owner.
func (s *Store) ListProjectTokens(ctx context.Context, c Caller, f TokenFilter, now int64) ([]Token, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	reaches := strings.NewReplacer("$1", "'key'", "$4", "m.project_id").Replace(TokenReaches)
	var tokens []Token
	err := f.apply(projectTokens(s.orm(ctx), c).Where(reaches), now).Select("t.*").Find(&tokens).Error
	return tokens, s.classify(err)
}

// Membership is a project in which a user has a role.
type Membership struct {
	ProjectID string
	Role      Role
	CreatedAt int64
}

// ListProjects returns a page of the projects in which the caller may act, by id: ErrSessionEnded. after is the last one of the page before.
func (s *Store) ListProjects(ctx context.Context, c Caller, after string, limit int, now int64) ([]Membership, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	params := CallerParams(c, now)
	reaches := strings.ReplaceAll(TokenReaches, "$4", "m.project_id")
	var (
		live bool
		list []Membership
	)
	err := s.engine.Query(ctx, `SELECT ($1 = '' OR t.id IS NOT NULL), COALESCE(m.project_id, ''), COALESCE(m.role, ''), COALESCE(m.created_at, 0)
FROM (SELECT 1) AS one
LEFT JOIN api_tokens t ON t.id = $1 AND t.revoked_at = 0 AND (t.expires_at = 0 OR t.expires_at > $2)
LEFT JOIN project_members m ON m.customer_id = $3 AND m.project_id > $4 AND m.user_id = $5 AND `+reaches+`
ORDER BY m.project_id LIMIT `+strconv.Itoa(limit), append(Params{}, params[0], params[1], params[2], after, params[4]), func(row Row) error {
		var m Membership
		if err := row.Scan(&live, &m.ProjectID, (*string)(&m.Role), &m.CreatedAt); err != nil {
			return err
		}
		if m.ProjectID != "" {
			list = append(list, m)
		}
		return nil
	})
	if err == nil && !live {
		err = ErrSessionEnded
	}
	return list, s.classify(err)
}

// TokenUseInterval is how exact LastUsedAt is.
const TokenUseInterval = 5 * time.Minute

// MarkTokensUsed stores when API keys were last used (microseconds, by id), of those for which something older is stored.
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

// FitToken gives an API key that the caller is to have the limits of the one in use where the request leaves them open: its projects, and
// its end unless hasEnd. Errors: ErrSessionEnded.
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

// whereLive is the condition of a live API key at a time.
const whereLive = "revoked_at = 0 AND (expires_at = 0 OR expires_at > ?)"

// MaxTokensADay is how many API keys a user can make within 24 hours, live or not: those that end after a moment stay in the table.
const MaxTokensADay = 1000

// CreateOwnToken stores an API key of the caller's, of which at most quota may be live, and MaxTokensADay recent. Errors: ErrSessionEnded, ErrNotMember of a project
// that it names, ErrForbidden if it reached further than the API key in use or outlived it, ErrQuotaExceeded.
func (tx *Tx) CreateOwnToken(c Caller, t Token, quota int64) error {
	for _, id := range t.Projects.With(t.ProjectID).List() { // sorted, so that two such transactions don't deadlock
		if _, err := tx.Role(Caller{CustomerID: c.CustomerID, ProjectID: id, UserID: c.UserID, TokenID: c.TokenID}); err != nil {
			return err
		}
	}
	// A removal that is under way in any project of the user's waits, and then finds the new API key.
	err := tx.db.Clauses(clause.Locking{Strength: "SHARE"}).Where("customer_id = ? AND user_id = ?", c.CustomerID, c.UserID).Find(&[]Member{}).Error
	if err != nil {
		return err
	}
	mine, err := ownToken(tx.db.Clauses(clause.Locking{Strength: "UPDATE"}), c, tx.Now)
	if err != nil {
		return err
	}
	if !mine.Covers(t) {
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
	if live >= quota || recent >= MaxTokensADay {
		return ErrQuotaExceeded
	}
	return tx.CreateToken(t)
}

// RevokeToken ends an API key and returns it: ErrNotFound. It stores the event from which data planes learn of it, completed
// with the token and its user. Revoking again changes nothing.
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

// RevokeOwnToken ends an API key of the caller's that their session manages, and returns it: ErrSessionEnded, ErrNotFound. cascade ends those
// that were made with it too.
func (tx *Tx) RevokeOwnToken(c Caller, id string, cascade bool, newEvent func(Token) Event) (Token, Stop, error) {
	mine, err := ownToken(tx.db, c, tx.Now)
	if err != nil {
		return Token{}, Stop{}, err
	}
	if cascade {
		if err := tx.lockTokensOf(c.CustomerID, c.UserID); err != nil {
			return Token{}, Stop{}, err
		}
	}
	t, err := tx.lockToken(c.CustomerID, id)
	if err == nil && (t.UserID != c.UserID || !mine.Manages(t)) {
		err = ErrNotFound
	}
	if err != nil {
		return Token{}, Stop{}, err
	}
	return tx.endTokens(t, cascade, func(t *Token) error { return tx.endToken(t, newEvent(*t)) })
}

// RevokeProjectToken keeps an API key of a member's from acting in the project, and returns it: ErrNotFound. One that reaches no other
// project is revoked. The caller must check that the user is an owner.
func (tx *Tx) RevokeProjectToken(c Caller, id string, cascade bool, newEvent func(Token) Event) (Token, Stop, error) {
	var found []Token
	if err := projectTokens(tx.db, c).Where("t.id = ?", id).Select("t.*").Find(&found).Error; err != nil {
		return Token{}, Stop{}, err
	}
	if len(found) == 0 {
		return Token{}, Stop{}, ErrNotFound
	}
	if cascade {
		if err := tx.lockTokensOf(c.CustomerID, found[0].UserID); err != nil {
			return Token{}, Stop{}, err
		}
	}
	t, err := tx.lockToken(c.CustomerID, id)
	if err == nil && !t.Reaches(c.ProjectID) && !t.Barred.Has(c.ProjectID) {
		err = ErrNotFound
	}
	if err != nil {
		return Token{}, Stop{}, err
	}
	return tx.endTokens(t, cascade, func(t *Token) error {
		if err := tx.keepBarred(*t, c.ProjectID); err != nil {
			return err
		}
		return tx.barToken(t, c.ProjectID, newEvent(*t))
	})
}

// endTokens ends a token and, with cascade, the live ones that were made with it, in turn. It returns the token, and of the ends the one
// that came last: data planes that have acted on that have acted on all.
func (tx *Tx) endTokens(t Token, cascade bool, end func(*Token) error) (Token, Stop, error) {
	family, last := []Token{t}, Stop{}
	if cascade {
		made, before, err := tx.lockMadeWith(t)
		if err != nil {
			return Token{}, Stop{}, err
		}
		family, last = append(family, made...), before
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

// lockMadeWith returns the live tokens that were made with a locked one, in turn, and locks them; of those that are not live, it returns the
// last end. It looks again until there are no more: one that was being made while it looked is found once the token that makes it is locked.
func (tx *Tx) lockMadeWith(t Token) (made []Token, last Stop, err error) {
	own := func() *gorm.DB {
		return tx.db.Where("customer_id = ? AND user_id = ?", t.CustomerID, t.UserID).Order("id")
	}
	for known := -1; ; {
		var all, live []Token
		err = own().Select("id", "parent_id", "revoked_at", "revocation_tx", "barred_at", "bar_tx").Find(&all).Error
		if err == nil {
			err = own().Clauses(clause.Locking{Strength: "UPDATE"}).Omit("hash").Where(whereLive, tx.Now).Find(&live).Error
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

// lockTokensOf locks the live API keys of a user, in the order in which all who lock several do, so that two transactions don't deadlock.
func (tx *Tx) lockTokensOf(customerID, userID string) error {
	return tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).Select("id").Where("customer_id = ? AND user_id = ?", customerID, userID).
		Where(whereLive, tx.Now).Order("id").Find(&[]Token{}).Error
}

// lockToken returns an API key, which no other transaction can change or act with until this one ends: ErrNotFound.
func (tx *Tx) lockToken(customerID, id string) (Token, error) {
	var t Token
	err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).Omit("hash").Where("id = ? AND customer_id = ?", id, customerID).Take(&t).Error
	return t, err
}

// endToken revokes a token, and stores the event. If the token is revoked already, nothing changes.
func (tx *Tx) endToken(t *Token, event Event) error {
	if t.RevokedAt != 0 {
		return nil
	}
	return tx.stopToken(t, map[string]any{"revoked_at": tx.Now, "revoked_by": event.ActorUserID, "revocation_tx": gorm.Expr(tx.number)}, event)
}

// barToken keeps a token from acting in a project, and stores the event.
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

// stopToken changes columns of a token, and stores the event from which data planes learn of it.
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
