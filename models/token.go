package models

// Token is an API key of ours. Its secret is not stored, only a hash of it.
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

// TableName keeps the table's name apart from the tokens of other services.
func (Token) TableName() string { return "api_tokens" }

// Live tells whether the token opens a session at now (microseconds).
func (t Token) Live(now int64) bool {
	return t.RevokedAt == 0 && (t.ExpiresAt == 0 || t.ExpiresAt > now)
}
