package models

import (
	"context"
	"slices"
	"strconv"

	"gorm.io/gorm"
)

// SealedName names an envelope: by its key's id, and but for the first version by its number, too.
func SealedName(keyID string, version uint32) string {
	if version == 1 {
		return keyID
	}
	return keyID + "/" + strconv.FormatUint(uint64(version), 10)
}

// Rewrapping is a new envelope for a version of a key.
type Rewrapping struct {
	KeyID string
	// Version and Old are what the new envelope was made from. A version that no longer has it keeps what it has.
	Version  uint32
	Old, New []byte
	// KEKID is the key-encryption key that New needs.
	KEKID string
}

// SealedKeys returns at most limit keys of all customers with their envelopes, revoked ones too, in the order of their ids,
// after the given id. An empty one begins. Beside each key, it returns it with the envelopes of its other versions that have one.
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
	return s.sealedVersion(ctx, id, 0)
}

// SealedVersion returns one key with the envelope of one of its versions: ErrNotFound where that is destroyed, too.
func (s *Store) SealedVersion(ctx context.Context, id string, version uint32) (Key, error) {
	return s.sealedVersion(ctx, id, version)
}

// sealedVersion returns a version of a key; zero is the active one.
func (s *Store) sealedVersion(ctx context.Context, id string, version uint32) (Key, error) {
	keys, err := s.sealedKeys(ctx, 1, func(db *gorm.DB) *gorm.DB { return db.Where("id = ?", id) })
	if err != nil {
		return Key{}, err
	}
	for _, k := range keys { // the active one is the first
		if version == 0 || k.Version == version {
			return k, nil
		}
	}
	return Key{}, ErrNotFound
}

func (s *Store) sealedKeys(ctx context.Context, limit int, where func(*gorm.DB) *gorm.DB) ([]Key, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	rows, err := where(s.orm(ctx).Model(&Key{})).
		Select("id, customer_id, project_id, user_id, provider, destination, name, version, revoked_at, envelope, kek_id").
		Where("length(envelope) > 0"). // those of keys that were destroyed are empty
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
	if err := rows.Err(); err != nil {
		return nil, s.classify(err)
	}
	err = s.addKeptVersions(ctx, &keys)
	return keys, s.classify(err)
}

// addKeptVersions adds, after each key, the key with the envelope of each of its other versions that have one.
func (s *Store) addKeptVersions(ctx context.Context, keys *[]Key) error {
	ids := make([]string, len(*keys))
	for i, k := range *keys {
		ids[i] = k.ID
	}
	var kept []KeyVersion
	err := s.orm(ctx).Where("key_id IN ? AND state <> ?", ids, string(VersionDestroyed)).Order("version DESC").Find(&kept).Error
	for _, v := range kept {
		i := slices.IndexFunc(*keys, func(k Key) bool { return k.ID == v.KeyID })
		k := (*keys)[i]
		k.Version, k.Envelope, k.KEKID = v.Version, v.Envelope, v.KEKID
		*keys = slices.Insert(*keys, i+1, k)
	}
	return err
}

// Rewrap stores new envelopes in one short transaction, and returns the SealedNames of those that are stored. The other keys were
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
