package models

import (
	"context"
	"slices"
	"strconv"

	"gorm.io/gorm"
)

// SealedName returns the name of an envelope: its key's id, and the version unless it is the first.
func SealedName(keyID string, version uint32) string {
	if version == 1 {
		return keyID
	}
	return keyID + "/" + strconv.FormatUint(uint64(version), 10)
}

// Rewrapping is a new envelope for a version of a key.
type Rewrapping struct {
	KeyID string
	// Version and Old are what New was made from. New is stored only if the version still has the envelope Old.
	Version  uint32
	Old, New []byte
	// KEKID is the key-encryption key that New needs.
	KEKID string
}

// SealedKeys returns the keys of all customers that follow the given id, in the order of their ids, with their
// envelopes. It reads at most limit keys. It includes revoked keys. After each key it adds a copy of the key for each
// other version that has an envelope, with the number and the envelope of that version. An empty id begins with the
// first key.
func (s *Store) SealedKeys(ctx context.Context, after string, limit int) ([]Key, error) {
	return s.sealedKeys(ctx, limit, func(db *gorm.DB) *gorm.DB { return db.Where("id > ?", after) })
}

// SealedKeysOf is SealedKeys for one project, including all users' own keys.
func (s *Store) SealedKeysOf(ctx context.Context, customerID, projectID, after string, limit int) ([]Key, error) {
	return s.sealedKeys(ctx, limit, func(db *gorm.DB) *gorm.DB {
		return db.Where("customer_id = ? AND project_id = ? AND id > ?", customerID, projectID, after)
	})
}

// SealedVersion returns a key with the envelope of a version; zero means the active one. It returns ErrNotFound if there is no
// such version, or it is destroyed.
func (s *Store) SealedVersion(ctx context.Context, id string, version uint32) (Key, error) {
	keys, err := s.sealedKeys(ctx, 1, func(db *gorm.DB) *gorm.DB { return db.Where("id = ?", id) })
	if err != nil {
		return Key{}, err
	}
	for _, k := range keys { // the active version is the first
		if version == 0 || k.Version == version {
			return k, nil
		}
	}
	return Key{}, ErrNotFound
}

func (s *Store) sealedKeys(ctx context.Context, limit int, where func(*gorm.DB) *gorm.DB) (keys []Key, err error) {
	err = s.read(ctx, func(db *gorm.DB) error {
		rows, err := where(db.Model(&Key{})).
			Select("id, customer_id, project_id, user_id, provider, destination, name, version, revoked_at, envelope, kek_id").
			Where("length(envelope) > 0"). // destroyed keys have empty envelopes
			Order("id").Limit(limit).Rows()
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var k Key
			err := rows.Scan(&k.ID, &k.CustomerID, &k.ProjectID, &k.UserID, &k.Provider, &k.Destination, &k.Name,
				version{&k.Version}, &k.RevokedAt, &k.Envelope, &k.KEKID)
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		keys, err = withKeptVersions(db, keys)
		return err
	})
	return keys, err
}

// withKeptVersions adds, after each key, a copy of the key for each other version that has an envelope, with the number
// and the envelope of that version.
func withKeptVersions(db *gorm.DB, keys []Key) ([]Key, error) {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.ID
	}
	var kept []KeyVersion
	err := db.Where("key_id IN ? AND state <> ?", ids, string(VersionDestroyed)).Order("version DESC").Find(&kept).Error
	for _, v := range kept {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.ID == v.KeyID })
		k := keys[i]
		k.Version, k.Envelope, k.KEKID = v.Version, v.Envelope, v.KEKID
		keys = slices.Insert(keys, i+1, k)
	}
	return keys, err
}

// Rewrap stores new envelopes in one short transaction, and returns the SealedNames of the versions that it changed. It
// skips versions that no longer have the envelope Old. On PostgreSQL, it also skips versions that another transaction
// has locked, and does not wait for them.
func (s *Store) Rewrap(ctx context.Context, batch []Rewrapping) ([]string, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	stored, err := s.engine.Rewrap(ctx, batch)
	return stored, s.classify(err)
}
