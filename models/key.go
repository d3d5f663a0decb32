package models

import "time"

// Key is a provider key that we hold. Reads that need no envelope leave Envelope and KEKID empty.
type Key struct {
	// ID is "byok_" and a ULID.
	ID         string `gorm:"primaryKey"`
	CustomerID string
	ProjectID  string
	// UserID is whose own key it is; empty for a project-level key.
	UserID        string
	Provider      string
	Name          string
	DisplaySuffix string
	// Version counts the secrets that the key has had, from 1.
	Version uint32
	// Envelope is the sealed secret, opaque here. KEKID names the key-encryption key it needs.
	Envelope  []byte
	KEKID     string `gorm:"column:kek_id"`
	CreatedAt int64  `gorm:"autoCreateTime:false"`
	CreatedBy string
	// RevokedAt is zero, and RevokedBy empty, while the key is active.
	RevokedAt int64
	RevokedBy string
	// RevocationTx is the number of the transaction that revoked it; zero while it is active, and for keys that were revoked
	// before there were data planes.
	RevocationTx int64
	// LastUsedAt and LastFailureAt are when a data plane last used it with success, and when its provider last refused it,
	// with LastFailureStatus; zero where that never was.
	LastUsedAt        int64
	LastFailureAt     int64
	LastFailureStatus int
}

// badFor is how long a refusal counts against a key that nobody has used with success since.
const badFor = 5 * time.Minute

// Bad tells whether the key's last use, in the last five minutes, was refused by its provider.
func (k Key) Bad(now int64) bool {
	return k.LastFailureAt > k.LastUsedAt && now-k.LastFailureAt < badFor.Microseconds()
}

// TableName is the resource's name in the public API.
func (Key) TableName() string { return "ai_keys" }

// Canary is the one sealed value that tells at start-up whether the right key-encryption key is there.
type Canary struct {
	ID        int `gorm:"primaryKey"`
	Envelope  []byte
	KEKID     string `gorm:"column:kek_id"`
	CreatedAt int64  `gorm:"autoCreateTime:false"`
}

// IdempotencyRecord remembers which key an Idempotency-Key made.
type IdempotencyRecord struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	UserID     string `gorm:"primaryKey"`
	// KeyHash is the SHA-256 of the Idempotency-Key, which is a stranger's text and may hold anything.
	KeyHash []byte `gorm:"primaryKey"`
	// Fingerprint is a MAC over the request, to tell a retry from a reuse.
	Fingerprint []byte
	KeyID       string
	CreatedAt   int64 `gorm:"autoCreateTime:false"`
}
