package models

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"
)

// VersionState is the state of a version of a key.
type VersionState string

// The states of a version. A key has one active version, which is stored in the key's own row, at most one pending version and
// at most one retiring version.
const (
	VersionPending   VersionState = "pending"
	VersionActive    VersionState = "active"
	VersionRetiring  VersionState = "retiring"
	VersionDestroyed VersionState = "destroyed"
)

// Why a version cannot be made active or be destroyed.
var (
	// ErrVersionTaken is returned where the number that a secret was sealed for is taken by another version of the key.
	ErrVersionTaken error = sentinel("key has another version of that number")
	// ErrVersionActive is returned for the destruction of the active version.
	ErrVersionActive error = sentinel("version is active")
	// ErrVersionGone is returned where a version is destroyed or has expired.
	ErrVersionGone error = sentinel("version is destroyed or expired")
	// ErrNoRollback is returned where there is no earlier version to roll back to.
	ErrNoRollback error = sentinel("no earlier version is kept")
)

// KeepExpiry is the ExpiresAt of a version that does not change the key's expiry.
const KeepExpiry = -1

// KeyVersion is one of a key's past, present and future secrets.
type KeyVersion struct {
	KeyID   string `gorm:"primaryKey"`
	Version uint32 `gorm:"primaryKey;autoIncrement:false"`
	// State is stored, except for VersionActive.
	State         VersionState
	DisplaySuffix string
	// Envelope and KEKID are empty in a destroyed version.
	Envelope  []byte
	KEKID     string `gorm:"column:kek_id"`
	CreatedAt int64  `gorm:"autoCreateTime:false"`
	CreatedBy string
	// ActivatedAt is when it last became active, RetireAt when it is due to be destroyed, DestroyedAt when it was; zero for none.
	ActivatedAt, RetireAt, DestroyedAt int64
	// ExpiresAt is the key's ExpiresAt while the version is active. Zero means never. KeepExpiry means that the key's
	// ExpiresAt stays unchanged.
	ExpiresAt int64
	// Overlap is how long the version that it replaces is kept, in microseconds.
	Overlap int64
	// The other fields are those that a Key has for its active version.
	LastFailureAt     int64
	LastFailureStatus int
	LastFailureReason string
	Verdict           string
	VerdictReason     string
	VerifiedAt        int64
}

// ActiveVersion returns the active version, with its envelope if the key was read with it.
func (k Key) ActiveVersion() KeyVersion {
	v := KeyVersion{
		KeyID: k.ID, Version: k.Version, State: VersionActive, DisplaySuffix: k.DisplaySuffix, Envelope: k.Envelope, KEKID: k.KEKID,
		CreatedAt: k.VersionAt, CreatedBy: k.VersionBy, ActivatedAt: k.ActivatedAt, ExpiresAt: k.ExpiresAt,
		LastFailureAt: k.LastFailureAt, LastFailureStatus: k.LastFailureStatus, LastFailureReason: k.LastFailureReason,
		Verdict: k.Verdict, VerdictReason: k.VerdictReason, VerifiedAt: k.VerifiedAt,
	}
	if v.CreatedAt == 0 { // the first version, which came with the key
		v.CreatedAt, v.CreatedBy, v.ActivatedAt = k.CreatedAt, k.CreatedBy, max(k.ActivatedAt, k.CreatedAt)
	}
	return v
}

// Rotation returns the change that made the active version active, as a stop. Like every stop, it has a receipt. Its Tx
// is zero if the key was never rotated.
func (k Key) Rotation() Stop { return Stop{EventKeyRotated, k.ID, k.CustomerID, k.RotationTx} }

// maxVersions bounds how many destroyed versions are listed.
const maxVersions = 100

// Versions returns the versions of a key except the active one, without their envelopes, newest first, at most maxVersions.
func (tx *Tx) Versions(keyID string) ([]KeyVersion, error) {
	var found []KeyVersion
	err := tx.db.Omit("envelope").Where("key_id = ?", keyID).Order("version DESC").Limit(maxVersions).Find(&found).Error
	return found, err
}

// KeptVersions locks and returns the pending and the retiring version of a key, with their envelopes.
func (tx *Tx) KeptVersions(keyID string) (found []KeyVersion, err error) {
	err = tx.locking().Where("key_id = ? AND state <> ?", keyID, string(VersionDestroyed)).Order("version DESC").Find(&found).Error
	return found, err
}

// NewVersion is a version of a key that a rotation adds.
type NewVersion struct {
	KeyVersion
	// Activate makes it active at once.
	Activate bool
	// Verified is the result of its test at the provider; nil for none.
	Verified *EventState
	// Fingerprints are those of its secret; none if they cannot be made.
	Fingerprints [][]byte
}

// AddVersion adds the next version to a key from KeyToOpen, and destroys a pending one. Errors: ErrVersionTaken.
func (tx *Tx) AddVersion(k Key, v NewVersion, by string, newEvent func(EventType) Event) error {
	if v.Version != k.LastVersion+1 {
		return ErrVersionTaken
	}
	if err := tx.AddFingerprints(k.CustomerID, k.ID, v.Version, v.Fingerprints); err != nil {
		return err
	}
	if v.Activate {
		if err := tx.activate(k, v.KeyVersion, by, EventKeyRotated, newEvent, v.Verified); err != nil {
			return err
		}
		return tx.destroyVersions(k.ID, VersionPending, 0, newEvent)
	}
	if err := tx.destroyVersions(k.ID, VersionPending, 0, newEvent); err != nil {
		return err
	}
	v.State = VersionPending
	if err := tx.db.Create(&v.KeyVersion).Error; err != nil {
		return err
	}
	err := tx.db.Model(&Key{}).Where("id = ?", k.ID).
		Updates(map[string]any{"last_version": v.Version, "revision": gorm.Expr("revision + 1")}).Error
	if err != nil {
		return err
	}
	event := newEvent(EventKeyVersionAdded)
	event.After = withVersion(v.Verified, v.Version)
	return tx.AppendEvent(event)
}

// ActivateVersion makes a version of a key active, and does nothing if the version is already active. k comes from
// KeyToOpen. Errors: ErrNotFound, ErrVersionGone.
func (tx *Tx) ActivateVersion(k Key, version uint32, by string, newEvent func(EventType) Event) error {
	if version == k.Version {
		return nil
	}
	var v KeyVersion
	if err := tx.locking().Where("key_id = ? AND version = ?", k.ID, version).Take(&v).Error; err != nil {
		return err
	}
	if !v.isUsable(tx.Now) {
		return ErrVersionGone
	}
	kind := EventKeyRotated
	if version < k.Version {
		kind = EventKeyRotationRolledBack
	}
	return tx.activate(k, v, by, kind, newEvent, nil)
}

func (v KeyVersion) isUsable(now int64) bool {
	isKept := v.State == VersionPending || v.State == VersionRetiring && v.RetireAt > now
	return isKept && (v.ExpiresAt <= 0 || v.ExpiresAt > now)
}

// RollBack undoes the last rotation: it makes the replaced version active again. It does nothing if the last change of
// the active version was a rollback. Errors: ErrNoRollback.
func (tx *Tx) RollBack(k Key, by string, newEvent func(EventType) Event) error {
	if k.ReplacedVersion > k.Version {
		return nil
	}
	earlier, err := tx.earlierVersion(k)
	if err != nil {
		return err
	}
	return tx.activate(k, earlier, by, EventKeyRotationRolledBack, newEvent, nil)
}

// earlierVersion returns the retiring version if it is older than the active one and may serve, or else ErrNoRollback.
func (tx *Tx) earlierVersion(k Key) (KeyVersion, error) {
	kept, err := tx.KeptVersions(k.ID)
	for _, v := range kept {
		if v.State == VersionRetiring && v.Version < k.Version && v.isUsable(tx.Now) {
			return v, nil
		}
	}
	if err == nil {
		err = ErrNoRollback
	}
	return KeyVersion{}, err
}

// activate makes a version active: it moves the version into the key's row, and the previously active version out of
// this row. A version that becomes active for the first time is on probation during its overlap, unless the provider
// already refuses the previous version.
func (tx *Tx) activate(k Key, next KeyVersion, by string, kind EventType, newEvent func(EventType) Event, found *EventState) error {
	event := newEvent(kind)
	event.Before, event.After = &EventState{Version: k.Version}, withVersion(found, next.Version)
	if next.Overlap > 0 {
		event.Before.RetireAt = tx.Now + next.Overlap
	}
	expiresAt, probation := k.ExpiresAt, int64(0)
	if next.ExpiresAt != KeepExpiry {
		expiresAt = next.ExpiresAt
	}
	if kind == EventKeyRotated && next.ActivatedAt == 0 && next.Overlap > 0 && k.LastFailureAt <= k.LastUsedAt {
		probation = tx.Now + next.Overlap
	}
	err := tx.db.Model(&Key{}).Where("id = ?", k.ID).Updates(map[string]any{
		"version": next.Version, "display_suffix": next.DisplaySuffix, "envelope": next.Envelope, "kek_id": next.KEKID,
		"version_at": next.CreatedAt, "version_by": next.CreatedBy, "activated_at": tx.Now,
		"expires_at": expiresAt, "expiry_due_at": nextExpiryNotice(expiresAt, tx.Now),
		"last_failure_at": next.LastFailureAt, "last_failure_status": next.LastFailureStatus, "last_failure_reason": next.LastFailureReason,
		"verdict": next.Verdict, "verdict_reason": next.VerdictReason, "verified_at": next.VerifiedAt,
		"rotated_at": tx.Now, "rotated_by": by, "rotation_tx": gorm.Expr(tx.number), "replaced_version": k.Version,
		"probation_until": probation, "last_version": max(k.LastVersion, next.Version), "revision": gorm.Expr("revision + 1"),
	}).Error
	if err != nil {
		return err
	}
	if err := tx.AppendEvent(event); err != nil { // first, so that tx.number is the same as in the row
		return err
	}
	if err := tx.db.Where("key_id = ? AND version = ?", k.ID, next.Version).Delete(&KeyVersion{}).Error; err != nil {
		return err
	}
	if err := tx.destroyVersions(k.ID, VersionRetiring, 0, newEvent); err != nil {
		return err
	}
	previous := k.ActiveVersion()
	previous.State, previous.RetireAt, previous.Overlap = VersionRetiring, tx.Now+next.Overlap, next.Overlap
	if err := tx.db.Create(&previous).Error; err != nil || next.Overlap > 0 {
		return err
	}
	return tx.destroyVersions(k.ID, VersionRetiring, 0, newEvent)
}

// withVersion returns a copy of a state, which may be nil, with a version.
func withVersion(state *EventState, version uint32) *EventState {
	with := EventState{}
	if state != nil {
		with = *state
	}
	with.Version = version
	return &with
}

// DestroyVersion destroys a version of a key, and does nothing if the version is already destroyed. k comes from
// LockKey. Errors: ErrNotFound, ErrVersionActive.
func (tx *Tx) DestroyVersion(k Key, version uint32, newEvent func(EventType) Event) error {
	if version == k.Version {
		return ErrVersionActive
	}
	var v KeyVersion
	if err := tx.db.Omit("envelope").Where("key_id = ? AND version = ?", k.ID, version).Take(&v).Error; err != nil {
		return err
	}
	if v.State == VersionDestroyed {
		return nil
	}
	err := tx.db.Model(&Key{}).Where("id = ?", k.ID).Update("revision", gorm.Expr("revision + 1")).Error
	if err != nil {
		return err
	}
	return tx.destroyVersions(k.ID, v.State, 0, newEvent)
}

// destroyVersions destroys the version of a locked key that has the given state, if there is one, and stores the event.
// If due is not zero, it does so only if the version is due to be destroyed at the time due.
func (tx *Tx) destroyVersions(keyID string, state VersionState, due int64, newEvent func(EventType) Event) error {
	where := tx.db.Where("key_id = ? AND state = ?", keyID, string(state))
	if due > 0 {
		where = where.Where("retire_at <= ?", due)
	}
	var found []KeyVersion
	if err := where.Omit("envelope").Find(&found).Error; err != nil {
		return err
	}
	for _, v := range found { // at most one
		if err := tx.eraseVersions("key_id = ? AND version = ?", keyID, v.Version); err != nil {
			return err
		}
		event := newEvent(EventKeyVersionDestroyed)
		event.Before = &EventState{Version: v.Version}
		if err := tx.AppendEvent(event); err != nil {
			return err
		}
	}
	return nil
}

// DestroyRetired destroys the retiring versions whose overlap has ended at the time now, for up to limit keys, and
// returns how many keys it found. Even if several processes do so at the same time, each event is stored once. It also
// erases the versions of revoked keys: processes of earlier releases leave such versions behind.
func (s *Store) DestroyRetired(ctx context.Context, now int64, limit int, newEvent func(EventType, Key) Event) (int, error) {
	return s.eachDue(ctx, func(db *gorm.DB) *gorm.DB {
		return db.Raw(`SELECT v.key_id FROM key_versions v JOIN ai_keys k ON k.id = v.key_id
WHERE v.state <> ? AND (v.state = ? AND v.retire_at <= ? OR k.revoked_at <> 0) GROUP BY v.key_id LIMIT ?`,
			string(VersionDestroyed), string(VersionRetiring), now, limit)
	}, func(tx *Tx, id string) error {
		k, err := tx.LockAnyKey(id)
		if err != nil {
			return err
		}
		if k.RevokedAt != 0 {
			return tx.eraseVersions("key_id = ?", id)
		}
		return tx.destroyVersions(id, VersionRetiring, now, func(kind EventType) Event { return newEvent(kind, k) })
	})
}

// eachDue runs do in a transaction of its own for each id that a query selects, and returns how many ids there are. It stops at the
// first error.
func (s *Store) eachDue(ctx context.Context, due func(*gorm.DB) *gorm.DB, do func(tx *Tx, id string) error) (int, error) {
	var ids []string
	err := s.read(ctx, func(db *gorm.DB) error { return due(db).Scan(&ids).Error })
	for i := 0; err == nil && i < len(ids); i++ {
		err = s.Transact(ctx, func(tx *Tx) error { return do(tx, ids[i]) })
	}
	if err != nil {
		return 0, err
	}
	return len(ids), nil
}

// MaxOverlap is the longest time for which a replaced version is kept.
const MaxOverlap = 30 * 24 * time.Hour

// ClaimIdempotency stores the record of a rotation. If an earlier request with the same Idempotency-Key has stored a
// record, it returns the version that the earlier request made. Otherwise it returns zero. Errors: ErrIdempotencyReuse.
func (tx *Tx) ClaimIdempotency(r IdempotencyRecord) (made uint32, err error) {
	row, params := IdempotencyRow(r).set("version", r.Version), Params{}
	stored, err := tx.exec(row.Into()+`VALUES (`+params.Add(row.Values...)+`) ON CONFLICT DO NOTHING`, params)
	if err != nil || stored > 0 {
		return 0, err
	}
	return tx.FindIdempotency(r)
}

// FindIdempotency returns the version that an earlier rotation with the same Idempotency-Key made, or zero. Errors:
// ErrIdempotencyReuse.
func (tx *Tx) FindIdempotency(r IdempotencyRecord) (made uint32, err error) {
	first, err := findIdempotency(tx.db, r)
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return 0, nil
	}
	return first.Version, err
}
