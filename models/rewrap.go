package models

import (
	"context"

	"gorm.io/gorm"
)

// Rewrapping is a new envelope for a key.
type Rewrapping struct {
	KeyID string
	// Version and Old are what the new envelope was made from. A key that no longer has them keeps what it has.
	Version  uint32
	Old, New []byte
	// KEKID is the key-encryption key that New needs.
	KEKID string
}

// SealedKeys returns at most limit keys of all customers with their envelopes, revoked ones too, in the order of their ids,
// after the given id. An empty one begins.
func (s *Store) SealedKeys(ctx context.Context, after string, limit int) ([]Key, error) {
	return s.sealedKeys(ctx, limit, func(db *gorm.DB) *gorm.DB { return db.Where("id > ?", after) })
}

// SealedKeysOf is SealedKeys for one project: its own keys and those of all its users.
func (s *Store) SealedKeysOf(ctx context.Context, customerID, projectID, after string, limit int) ([]Key, error) {
	return s.sealedKeys(ctx, limit, func(db *gorm.DB) *gorm.DB {
		return db.Where("customer_id = ? AND project_id = ? AND id > ?", customerID, projectID, after)
	})
}

// SealedKey returns one key with its envelope: ErrNotFound.
func (s *Store) SealedKey(ctx context.Context, id string) (Key, error) {
	keys, err := s.sealedKeys(ctx, 1, func(db *gorm.DB) *gorm.DB { return db.Where("id = ?", id) })
	if err == nil && len(keys) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Key{}, err
	}
	return keys[0], nil
}

func (s *Store) sealedKeys(ctx context.Context, limit int, where func(*gorm.DB) *gorm.DB) ([]Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	rows, err := where(s.orm(ctx).Model(&Key{})).
		Select("id, customer_id, project_id, user_id, provider, destination, name, version, revoked_at, envelope, kek_id").
		Order("id").Limit(limit).Rows()
	if err != nil {
		return nil, s.classify(err)
	}
	defer func() { _ = rows.Close() }()
	keys := make([]Key, 0, limit)
	for rows.Next() {
		var k Key
		err := rows.Scan(&k.ID, &k.CustomerID, &k.ProjectID, &k.UserID, &k.Provider, &k.Destination, &k.Name, version{&k.Version}, &k.RevokedAt,
			&k.Envelope, &k.KEKID)
		if err != nil {
			return nil, s.classify(err)
		}
		keys = append(keys, k)
	}
	return keys, s.classify(rows.Err())
}

// Rewrap stores new envelopes in one short transaction, and returns the ids of the keys that have theirs. The other keys were
// changed since, or another transaction is changing them: Rewrap does not wait for it.
func (s *Store) Rewrap(ctx context.Context, batch []Rewrapping) ([]string, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	stored, err := s.engine.Rewrap(ctx, batch)
	return stored, s.classify(err)
}
