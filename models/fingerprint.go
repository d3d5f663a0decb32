package models

import (
	"bytes"
	"context"
	"slices"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// KeyFingerprint is a keyed fingerprint of the secret of a key's version, or of one field of this secret. It is kept
// when the version is destroyed, because the provider may still accept the secret.
type KeyFingerprint struct {
	CustomerID  string `gorm:"primaryKey"`
	Fingerprint []byte `gorm:"primaryKey"`
	KeyID       string `gorm:"primaryKey"`
	Version     uint32 `gorm:"primaryKey;autoIncrement:false"`
}

// isKept is the condition that the version of a fingerprint f of the key k serves or could be made to serve.
const isKept = `k.revoked_at = 0 AND (f.version = k.version OR
EXISTS (SELECT 1 FROM key_versions v WHERE v.key_id = f.key_id AND v.version = f.version AND v.state <> 'destroyed'))`

// FingerprintRow returns a fingerprint as the row to store.
func FingerprintRow(f KeyFingerprint) *Insert {
	return (&Insert{Table: "key_fingerprints"}).
		set("customer_id", f.CustomerID).set("fingerprint", f.Fingerprint).set("key_id", f.KeyID).set("version", f.Version)
}

// SharedFingerprint begins a query that finds a fingerprint among those of the customer $3; the caller adds a condition
// on the fingerprint. A registration looks for duplicates only if this query finds a row, which keeps registrations
// fast.
const SharedFingerprint = `SELECT 1 FROM key_fingerprints WHERE customer_id = $3 AND fingerprint `

// Duplicates returns the ids of up to ten other keys within the caller's reach that have one of the fingerprints.
func (tx *Tx) Duplicates(c Caller, keyID string, fingerprints [][]byte) ([]string, error) {
	return duplicates(tx.db, c, keyID, fingerprints)
}

func duplicates(db *gorm.DB, c Caller, keyID string, fingerprints [][]byte) (ids []string, err error) {
	if len(fingerprints) == 0 {
		return nil, nil
	}
	err = db.Raw(`SELECT DISTINCT k.id FROM key_fingerprints f JOIN ai_keys k ON k.id = f.key_id AND k.customer_id = f.customer_id
WHERE f.customer_id = ? AND f.fingerprint IN ? AND k.project_id = ? AND (k.user_id = '' OR k.user_id = ?) AND k.id <> ? AND `+isKept+` ORDER BY k.id LIMIT 10`,
		c.CustomerID, fingerprints, c.ProjectID, c.UserID, keyID).Scan(&ids).Error
	return ids, err
}

// AddFingerprints stores those fingerprints of a version of a key that are not stored yet.
func (tx *Tx) AddFingerprints(customerID, keyID string, version uint32, fingerprints [][]byte) error {
	if len(fingerprints) == 0 {
		return nil
	}
	rows := make([]KeyFingerprint, len(fingerprints))
	for i, fingerprint := range fingerprints {
		rows[i] = KeyFingerprint{CustomerID: customerID, Fingerprint: fingerprint, KeyID: keyID, Version: version}
	}
	return tx.db.Clauses(clause.OnConflict{DoNothing: true}).Create(&rows).Error
}

// FingerprintedVersions returns the versions of a key that have fingerprints, and those that have the given
// fingerprint. If fingerprint is nil, both results are empty.
func (tx *Tx) FingerprintedVersions(customerID, keyID string, fingerprint []byte) (having, same map[uint32]bool, err error) {
	having, same = map[uint32]bool{}, map[uint32]bool{}
	if fingerprint == nil {
		return having, same, nil
	}
	var found []KeyFingerprint
	err = tx.db.Where("customer_id = ? AND key_id = ?", customerID, keyID).Find(&found).Error
	for _, f := range found {
		having[f.Version] = true
		if bytes.Equal(f.Fingerprint, fingerprint) {
			same[f.Version] = true
		}
	}
	return having, same, err
}

// WithoutFingerprints returns the versions in keys that have no fingerprints. keys comes from SealedKeys.
func (s *Store) WithoutFingerprints(ctx context.Context, keys []Key) ([]Key, error) {
	var customers, ids []string
	for _, k := range keys {
		customers, ids = append(customers, k.CustomerID), append(ids, k.ID)
	}
	found, err := find[KeyFingerprint](ctx, s, func(db *gorm.DB) *gorm.DB {
		return db.Where("customer_id IN ? AND key_id IN ?", customers, ids)
	})
	having := make(map[string]bool, len(found))
	for _, f := range found {
		having[SealedName(f.KeyID, f.Version)] = true
	}
	return slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return having[SealedName(k.ID, k.Version)] }), err
}

// Leak is a version of a key whose secret has one of the fingerprints of a search.
type Leak struct {
	// Key has no envelope. Its version is the active one.
	Key         Key `gorm:"embedded"`
	Fingerprint []byte
	LeakVersion uint32
	// VersionState is empty for the active version.
	VersionState VersionState
}

// maxLeaks bounds how many versions of keys FindLeaks returns.
const maxLeaks = 1000

// FindLeaks returns the versions of a project's keys that have one of the fingerprints. It includes all users' own
// keys. Versions of revoked keys come last. The caller must check that the user is an owner.
func (s *Store) FindLeaks(ctx context.Context, c Caller, fingerprints [][]byte) ([]Leak, error) {
	return find[Leak](ctx, s, func(db *gorm.DB) *gorm.DB {
		return db.Table("key_fingerprints AS f").
			Select(`k.id, k.customer_id, k.project_id, k.user_id, k.provider, k.name, k.version, k.revoked_at, k.revoked_by, k.revocation_tx, k.last_used_at,
f.fingerprint, f.version AS leak_version, COALESCE(v.state, '') AS version_state`).
			Joins("JOIN ai_keys k ON k.id = f.key_id AND k.customer_id = f.customer_id").
			Joins("LEFT JOIN key_versions v ON v.key_id = f.key_id AND v.version = f.version").
			Where("f.customer_id = ? AND k.project_id = ? AND f.fingerprint IN ?", c.CustomerID, c.ProjectID, fingerprints).
			Order("CASE WHEN k.revoked_at = 0 THEN 0 ELSE 1 END, k.id, f.version").Limit(maxLeaks)
	})
}

// KeyOf locks and returns a key of the caller's project, even another member's own. The caller must check that the user
// is an owner. Errors: ErrNotFound.
func (tx *Tx) KeyOf(c Caller, id string) (k Key, err error) {
	err = tx.locking().Omit("envelope").Where("id = ? AND customer_id = ? AND project_id = ?", id, c.CustomerID, c.ProjectID).Take(&k).Error
	return k, err
}
