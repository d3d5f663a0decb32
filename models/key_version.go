package models

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// VersionState is where a version of a key is in its life.
type VersionState string

// The states of a version. A key has one active version, whose row is the key's own, at most one pending and at most one retiring.
const (
	VersionPending   VersionState = "pending"
	VersionActive    VersionState = "active"
	VersionRetiring  VersionState = "retiring"
	VersionDestroyed VersionState = "destroyed"
)

// Why a version can't be made active or be destroyed.
var (
	// ErrVersionTaken is returned where a key has another version of the number that a secret was sealed for.
	ErrVersionTaken = errors.New("key has another version of that number")
	// ErrVersionActive is returned for the destruction of the version that serves.
	ErrVersionActive = errors.New("version is active")
	// ErrVersionGone is returned where a version is destroyed, or has expired.
	ErrVersionGone = errors.New("version is destroyed or expired")
	// ErrNoRollback is returned where there is no earlier version to roll back to.
	ErrNoRollback = errors.New("no earlier version is kept")
)

// KeepExpiry is the ExpiresAt of a version that leaves the key's as it is.
const KeepExpiry = -1

// KeyVersion is one of the secrets that a key has had, or is to have.
type KeyVersion struct {
	KeyID   string `gorm:"primaryKey"`
	Version uint32 `gorm:"primaryKey;autoIncrement:false"`
	// State is what is stored for all but VersionActive.
	State         VersionState
	DisplaySuffix string
	// Envelope and KEKID are empty in a destroyed version.
	Envelope  []byte
	KEKID     string `gorm:"column:kek_id"`
	CreatedAt int64  `gorm:"autoCreateTime:false"`
	CreatedBy string
	// ActivatedAt is when it last became active, RetireAt when it is due to be destroyed, DestroyedAt when it was; zero for none.
	ActivatedAt, RetireAt, DestroyedAt int64
	// ExpiresAt is the key's while the version is active: zero is never.
	ExpiresAt int64
	// Overlap is how long the version that it replaces stays, in microseconds.
	Overlap int64
	// The rest is what a Key has of its active version.
	LastFailureAt     int64
	LastFailureStatus int
	LastFailureReason string
	Verdict           string
	VerdictReason     string
	VerifiedAt        int64
}

// ActiveVersion returns the version that serves, with its envelope if the key has it.
func (k Key) ActiveVersion() KeyVersion {
	v := KeyVersion{
		KeyID: k.ID, Version: k.Version, State: VersionActive, DisplaySuffix: k.DisplaySuffix, Envelope: k.Envelope, KEKID: k.KEKID,
		CreatedAt: k.VersionAt, CreatedBy: k.VersionBy, ActivatedAt: k.ActivatedAt, ExpiresAt: k.ExpiresAt,
		LastFailureAt: k.LastFailureAt, LastFailureStatus: k.LastFailureStatus, LastFailureReason: k.LastFailureReason,
		Verdict: k.Verdict, VerdictReason: k.VerdictReason, VerifiedAt: k.VerifiedAt,
	}
	if v.CreatedAt == 0 { // the first, which came with the key
		v.CreatedAt, v.CreatedBy, v.ActivatedAt = k.CreatedAt, k.CreatedBy, max(k.ActivatedAt, k.CreatedAt)
	}
	return v
}

// Rotation returns the change that made the key's version active, whose acknowledgements are counted as those of a stop. Its Tx is zero for
// a key that was never rotated.
func (k Key) Rotation() Stop { return Stop{EventKeyRotated, k.ID, k.CustomerID, k.RotationTx} }

// maxVersions bounds how many destroyed versions are listed.
const maxVersions = 100

// Versions returns the versions of a key that are not active, without their envelopes, newest first; of many destroyed ones the newest.
func (tx *Tx) Versions(keyID string) ([]KeyVersion, error) {
	var found []KeyVersion
	err := tx.db.Omit("envelope").Where("key_id = ?", keyID).Order("version DESC").Limit(maxVersions).Find(&found).Error
	return found, err
}

// KeptVersions returns the pending and the retiring version of a key, with their envelopes, which nobody changes until the transaction ends.
func (tx *Tx) KeptVersions(keyID string) ([]KeyVersion, error) {
	var found []KeyVersion
	err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).
		Where("key_id = ? AND state <> ?", keyID, string(VersionDestroyed)).Order("version DESC").Find(&found).Error
	return found, err
}

// NewVersion is a version of a key that a rotation adds.
type NewVersion struct {
	KeyVersion
	// Activate is whether it is to serve at once.
	Activate bool
	// Verified is what its test at the provider found; nil for none.
	Verified *EventState
	// Fingerprints are of its secret; none if they can't be made.
	Fingerprints [][]byte
}

// AddVersion adds the next version to a key from KeyToOpen, in place of one that is pending. Errors: ErrVersionTaken.
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

// ActivateVersion makes another version of a key, which KeyToOpen returned, the active one. If it is active already, nothing changes. Errors:
// ErrNotFound, ErrVersionGone.
func (tx *Tx) ActivateVersion(k Key, version uint32, by string, newEvent func(EventType) Event) error {
	if version == k.Version {
		return nil
	}
	var v KeyVersion
	err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).Where("key_id = ? AND version = ?", k.ID, version).Take(&v).Error
	if err != nil {
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

// RollBack has the version that the active one replaced serve again. Of a key that was rolled back it does nothing. Errors: ErrNoRollback.
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

// earlierVersion returns the retiring version that is older than the active one, if it may serve, or ErrNoRollback.
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

// activate moves a version into the row of its key, and the version that is there out of it. A refusal within the overlap of a version that
// serves for the first time rolls it back, unless the provider refused the one before, too.
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
	if err := tx.AppendEvent(event); err != nil { // next to its number in the row
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

// withVersion returns the state after a change of the active version.
func withVersion(found *EventState, version uint32) *EventState {
	state := EventState{}
	if found != nil {
		state = *found
	}
	state.Version = version
	return &state
}

// DestroyVersion destroys a version of a key that LockKey returned and that is not active. Of a destroyed one it does nothing. Errors:
// ErrNotFound, ErrVersionActive.
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

// destroyVersions destroys the version of a locked key that is in a state, if it is due by a time: zero is always. It stores the event.
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

// eraseVersions overwrites the envelopes of versions.
func (tx *Tx) eraseVersions(where string, args ...any) error {
	return tx.db.Model(&KeyVersion{}).Where(where, args...).Where("state <> ?", string(VersionDestroyed)).Updates(map[string]any{
		"state": string(VersionDestroyed), "envelope": []byte{}, "kek_id": "", "retire_at": 0, "destroyed_at": tx.Now,
	}).Error
}

// DestroyRetired destroys the retiring versions of up to limit keys whose overlap has ended at a time, and returns how many keys it found.
// Processes that do so at the same time store each event once. It also erases what a process of an earlier release left of revoked keys.
func (s *Store) DestroyRetired(ctx context.Context, now int64, limit int, newEvent func(EventType, Key) Event) (int, error) {
	ids, err := s.retiredKeys(ctx, now, limit)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		err := s.Transact(ctx, func(tx *Tx) error {
			var found []Key
			if err := tx.lockKey(id, &found); err != nil || len(found) == 0 {
				return err
			}
			if found[0].RevokedAt != 0 {
				return tx.eraseVersions("key_id = ?", id)
			}
			return tx.destroyVersions(id, VersionRetiring, now, func(kind EventType) Event { return newEvent(kind, found[0]) })
		})
		if err != nil {
			return 0, err
		}
	}
	return len(ids), nil
}

func (s *Store) retiredKeys(ctx context.Context, now int64, limit int) (ids []string, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err = s.orm(ctx).Raw(`SELECT v.key_id FROM key_versions v JOIN ai_keys k ON k.id = v.key_id
WHERE v.state <> ? AND (v.state = ? AND v.retire_at <= ? OR k.revoked_at <> 0) GROUP BY v.key_id LIMIT ?`,
		string(VersionDestroyed), string(VersionRetiring), now, limit).Scan(&ids).Error
	return ids, s.classify(err)
}

// MaxOverlap is the longest time for which a replaced version stays.
const MaxOverlap = 30 * 24 * time.Hour

// ClaimIdempotency stores the record of a rotation. If there is one of an earlier request, it returns the version that this made, and with
// zero there was none. Errors: ErrIdempotencyReuse.
func (tx *Tx) ClaimIdempotency(r IdempotencyRecord) (made uint32, err error) {
	row, params := IdempotencyRow(r).set("version", r.Version), Params{}
	stored, err := tx.exec(row.Into()+`VALUES (`+params.Add(row.Values...)+`) ON CONFLICT DO NOTHING`, params)
	if err != nil || stored > 0 {
		return 0, err
	}
	return tx.FindIdempotency(r)
}

// FindIdempotency returns the version that an earlier rotation with the same Idempotency-Key made; zero if there was none. Errors:
// ErrIdempotencyReuse.
func (tx *Tx) FindIdempotency(r IdempotencyRecord) (made uint32, err error) {
	var found []IdempotencyRecord
	err = tx.db.Where("customer_id = ? AND project_id = ? AND user_id = ? AND key_hash = ?", r.CustomerID, r.ProjectID, r.UserID, r.KeyHash).
		Find(&found).Error
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return found[0].Version, found[0].match(r)
}
