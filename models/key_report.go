package models

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"gorm.io/gorm"
)

// KeyReport is a data plane's report on one key: when it was last used with success, when its provider last refused it, and
// when its provider last sent it back in an answer. Times are microseconds, zero for never.
type KeyReport struct {
	KeyID         string
	UsedAt        int64
	FailedAt      int64
	FailureStatus int
	FailureReason string // empty if the data plane does not say
	FailedFor     ReportedCaller
	FailedVersion uint32 // zero if the data plane does not say
	ExposedAt     int64
	ExposedFor    ReportedCaller
}

// ReportedCaller is the caller whose request a report is about, according to the data plane. Both fields are empty for no
// particular user; TokenID is also empty for a session token.
type ReportedCaller struct{ UserID, TokenID string }

// usedStep is how much later than the stored use a reported use must be to be stored, in microseconds.
const usedStep = 5_000_000

// ReportKeys stores reports, except those on keys of customers that the data plane does not serve. If a report makes a
// key bad, ReportKeys stores newEvent's EventKeyFailing and returns the key; of simultaneous reports, only one does so.
// For a key that was sent back, it stores an EventKeyExposed, at most one for each key and hour. It does not store a
// refusal of a version that is not active. A refusal of an active version on probation rolls the key back.
func (s *Store) ReportKeys(ctx context.Context, d DataPlane, reports []KeyReport, newEvent NewKeyEvent) (failing []Key, err error) {
	// The reports are sorted, so that two data planes that report the same keys don't deadlock.
	reports = slices.SortedFunc(slices.Values(reports), func(a, b KeyReport) int { return cmp.Compare(a.KeyID, b.KeyID) })
	ids := make([]string, len(reports))
	for i, r := range reports {
		ids[i] = r.KeyID
	}
	known, err := s.findKeys(ctx, ids)
	if err != nil {
		return nil, err
	}
	worth := slices.DeleteFunc(reports, func(r KeyReport) bool {
		i := slices.IndexFunc(known, func(k Key) bool { return k.ID == r.KeyID })
		return i < 0 || !d.Serves(known[i].CustomerID) || !r.isNews(known[i])
	})
	if len(worth) == 0 {
		return nil, nil
	}
	err = s.Transact(ctx, func(tx *Tx) error {
		failing = nil
		for _, r := range worth {
			if err := tx.storeReport(r, newEvent, &failing); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return failing, nil
}

// NewKeyEvent makes an event of a type about a key and a caller.
type NewKeyEvent func(kind EventType, k Key, caller ReportedCaller) Event

// findKeys returns keys without their envelopes.
func (s *Store) findKeys(ctx context.Context, ids []string) ([]Key, error) {
	return find[Key](ctx, s, func(db *gorm.DB) *gorm.DB { return db.Omit("envelope").Where("id IN ?", ids) })
}

// isNews reports whether the report is worth a write to the key's row.
func (r KeyReport) isNews(k Key) bool {
	recovers := k.LastFailureAt > k.LastUsedAt && r.UsedAt > k.LastFailureAt
	return r.ExposedAt > 0 || r.FailedAt > k.LastFailureAt || r.UsedAt >= k.LastUsedAt+usedStep || recovers
}

// storeReport stores a report, and adds the key to failing if it has begun to be bad.
func (tx *Tx) storeReport(r KeyReport, newEvent NewKeyEvent, failing *[]Key) error {
	before, err := tx.LockAnyKey(r.KeyID)
	if err != nil {
		return err
	}
	k := before
	if r.ExposedAt > 0 {
		if err := tx.storeExposure(newEvent(EventKeyExposed, k, r.ExposedFor)); err != nil {
			return err
		}
	}
	changed := r.apply(&k)
	if len(changed) == 0 {
		return nil
	}
	if err := tx.db.Model(&Key{}).Where("id = ?", k.ID).Updates(changed).Error; err != nil {
		return err
	}
	if r.FailedVersion == k.Version && k.LastFailureAt > before.LastFailureAt && k.ProbationUntil > tx.Now {
		if rolledBack, err := tx.rollBackRefused(k.ID, r, newEvent); err != nil || rolledBack {
			return err
		}
	}
	if k.Bad(tx.Now) && !before.Bad(tx.Now) {
		*failing = append(*failing, k)
		return tx.AppendEvent(newEvent(EventKeyFailing, k, r.FailedFor))
	}
	return nil
}

// apply applies the report to a key, and returns the columns to write.
func (r KeyReport) apply(k *Key) map[string]any {
	changed := map[string]any{}
	if r.UsedAt > k.LastUsedAt {
		k.LastUsedAt = r.UsedAt
		changed["last_used_at"] = r.UsedAt
	}
	isActive := r.FailedVersion == 0 || r.FailedVersion == k.Version
	if !isActive && r.FailedVersion == k.ReplacedVersion && k.ProbationUntil != 0 { // a rollback would not help
		changed["probation_until"] = 0
	}
	if r.FailedAt > k.LastFailureAt && isActive {
		k.LastFailureAt, k.LastFailureStatus, k.LastFailureReason = r.FailedAt, r.FailureStatus, r.FailureReason
		changed["last_failure_at"], changed["last_failure_status"], changed["last_failure_reason"] = r.FailedAt, r.FailureStatus, r.FailureReason
	}
	return changed
}

// rollBackRefused makes the previous version active again, if it is kept and may serve, and reports whether it did.
func (tx *Tx) rollBackRefused(id string, r KeyReport, newEvent NewKeyEvent) (rolledBack bool, err error) {
	k, err := tx.KeyToOpen(id)
	if err != nil || k.StopReason(tx.Now) != "" {
		return false, err
	}
	earlier, err := tx.earlierVersion(k)
	if errors.Is(err, ErrNoRollback) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if k.ExpiresAt != 0 && (earlier.ExpiresAt == 0 || earlier.ExpiresAt > k.ExpiresAt) { // only people extend a key's life
		earlier.ExpiresAt = KeepExpiry
	}
	return true, tx.activate(k, earlier, "", EventKeyRotationRolledBack, func(kind EventType) Event { return newEvent(kind, k, r.FailedFor) },
		&EventState{Reason: r.FailureReason})
}

// storeExposure stores the event, unless there is one for the key in the same hour. The transaction has locked the key.
func (tx *Tx) storeExposure(e Event) error {
	hour := time.UnixMicro(e.At).UTC().Truncate(time.Hour).UnixMicro()
	var stored int64
	events := tx.db.Model(&Event{}).Where("customer_id = ? AND project_id = ? AND scope_user_id = ? AND type = ? AND key_id = ?",
		e.CustomerID, e.ProjectID, e.ScopeUserID, string(EventKeyExposed), e.KeyID)
	err := between(events, hour, 0).Limit(1).Count(&stored).Error
	if err != nil || stored > 0 {
		return err
	}
	return tx.AppendEvent(e)
}
