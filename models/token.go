package models

import (
	"context"

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
	// CreatedAt, ExpiresAt and RevokedAt are microseconds since the Unix epoch; zero means never for the latter two.
	CreatedAt int64 `gorm:"autoCreateTime:false"`
	ExpiresAt int64
	RevokedAt int64
}

// TableName is the table's name.
func (Token) TableName() string { return "api_tokens" }

// Live reports whether the token opens a session at now (microseconds).
func (t Token) Live(now int64) bool {
	return t.RevokedAt == 0 && (t.ExpiresAt == 0 || t.ExpiresAt > now)
}

// ListTokens returns a project's API keys by age, those of one user unless userID is empty.
func (s *Store) ListTokens(ctx context.Context, customerID, projectID, userID string) ([]Token, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	db := s.orm(ctx).Where("customer_id = ? AND project_id = ?", customerID, projectID)
	if userID != "" {
		db = db.Where("user_id = ?", userID)
	}
	var tokens []Token
	err := db.Order("id").Find(&tokens).Error
	return tokens, s.classify(err)
}

// CreateToken stores an API key.
func (tx *Tx) CreateToken(t Token) error { return tx.db.Create(&t).Error }

// RevokeToken ends an API key and returns it: ErrNotFound. It stores the event from which data planes learn of it, completed
// with the token and its user. Revoking again changes nothing.
func (tx *Tx) RevokeToken(customerID, projectID, id string, event Event) (Token, error) {
	var t Token
	err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).
		Where("id = ? AND customer_id = ? AND project_id = ?", id, customerID, projectID).Take(&t).Error
	if err != nil || t.RevokedAt != 0 {
		return t, err
	}
	t.RevokedAt = tx.Now
	if err := tx.db.Model(&Token{}).Where("id = ?", id).Update("revoked_at", tx.Now).Error; err != nil {
		return Token{}, err
	}
	event.TokenID, event.MemberID = t.ID, t.UserID
	return t, tx.AppendEvent(event)
}
