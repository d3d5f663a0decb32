package models

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
)

// KeyReport is what a data plane reports of one key: when it was last used with success, when its provider last refused it,
// and when its provider last sent it back in an answer. Times are microseconds, zero for never.
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

// ReportedCaller is the caller whose request a report is about, as the data plane says. Both are empty for no particular user,
// and TokenID for a session token.
type ReportedCaller struct{ UserID, TokenID string }

// usedStep is how much later a use must be than the stored one to be worth a write, in microseconds.
const usedStep = 5_000_000

// ReportKeys stores how keys fare, and ignores keys of customers that the data plane does not serve. When a key begins to be
// bad, it stores the EventKeyFailing that newEvent makes; when a key was sent back, an EventKeyExposed, one for a key and hour.
// It returns the keys that have begun to be bad: of several reports at a time, one does. A refusal of another version than the active one
// says nothing of the key; one of an active version that is on probation rolls it back.
func (s *Store) ReportKeys(ctx context.Context, d DataPlane, reports []KeyReport, newEvent NewKeyEvent) (failing []Key, err error) {
	// In one order, so that two data planes that report the same keys don't deadlock.
	reports = slices.SortedFunc(slices.Values(reports), func(a, b KeyReport) int { return cmp.Compare(a.KeyID, b.KeyID) })
	ids := make([]string, len(reports))
	for i, r := range reports {
		ids[i] = r.KeyID
	}
	var known []Key
	if err := s.findKeys(ctx, ids, &known); err != nil {
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

// findKeys reads keys without their envelopes.
func (s *Store) findKeys(ctx context.Context, ids []string, into *[]Key) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.orm(ctx).Omit("envelope").Where("id IN ?", ids).Find(into).Error)
}

// isNews reports whether the report is worth a write to the key's row.
func (r KeyReport) isNews(k Key) bool {
	recovers := k.LastFailureAt > k.LastUsedAt && r.UsedAt > k.LastFailureAt
	return r.ExposedAt > 0 || r.FailedAt > k.LastFailureAt || r.UsedAt >= k.LastUsedAt+usedStep || recovers
}

// storeReport stores a report, and adds the key to failing if it has begun to be bad.
func (tx *Tx) storeReport(r KeyReport, newEvent NewKeyEvent, failing *[]Key) error {
	var before []Key
	if err := tx.lockKey(r.KeyID, &before); err != nil || len(before) == 0 {
		return err
	}
	k := before[0]
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
	if r.FailedVersion == k.Version && k.LastFailureAt > before[0].LastFailureAt && k.ProbationUntil > tx.Now {
		if rolledBack, err := tx.rollBackRefused(k.ID, r, newEvent); err != nil || rolledBack {
			return err
		}
	}
	if k.Bad(tx.Now) && !before[0].Bad(tx.Now) {
		*failing = append(*failing, k)
		return tx.AppendEvent(newEvent(EventKeyFailing, k, r.FailedFor))
	}
	return nil
}

// apply changes a key by the report, and returns the columns that are to change.
func (r KeyReport) apply(k *Key) map[string]any {
	changed := map[string]any{}
	if r.UsedAt > k.LastUsedAt {
		k.LastUsedAt = r.UsedAt
		changed["last_used_at"] = r.UsedAt
	}
	isActive := r.FailedVersion == 0 || r.FailedVersion == k.Version
	if !isActive && r.FailedVersion == k.ReplacedVersion && k.ProbationUntil != 0 { // a rollback would lead to a version that is refused, too
		changed["probation_until"] = 0
	}
	if r.FailedAt > k.LastFailureAt && isActive {
		k.LastFailureAt, k.LastFailureStatus, k.LastFailureReason = r.FailedAt, r.FailureStatus, r.FailureReason
		changed["last_failure_at"], changed["last_failure_status"], changed["last_failure_reason"] = r.FailedAt, r.FailureStatus, r.FailureReason
	}
	return changed
}

// rollBackRefused has the version before serve again, if it is there and may serve, and reports whether it does.
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
	if k.ExpiresAt != 0 && (earlier.ExpiresAt == 0 || earlier.ExpiresAt > k.ExpiresAt) { // only people give a key a later end
		earlier.ExpiresAt = KeepExpiry
	}
	return true, tx.activate(k, earlier, "", EventKeyRotationRolledBack, func(kind EventType) Event { return newEvent(kind, k, r.FailedFor) },
		&EventState{Reason: r.FailureReason})
}

// storeExposure stores the event, unless the key has one of the same hour. The transaction has locked the key.
func (tx *Tx) storeExposure(e Event) error {
	hour := time.UnixMicro(e.At).UTC().Truncate(time.Hour)
	var first ulid.ULID // of the hour: ids are in the order of time, so that the index need not be read further back
	if err := first.SetTime(ulid.Timestamp(hour)); err != nil {
		return err
	}
	var stored int64
	err := tx.db.Model(&Event{}).Where("customer_id = ? AND project_id = ? AND scope_user_id = ? AND id >= ? AND at >= ? AND type = ? AND key_id = ?",
		e.CustomerID, e.ProjectID, e.ScopeUserID, EventIDPrefix+first.String(), hour.UnixMicro(), string(EventKeyExposed), e.KeyID).Limit(1).Count(&stored).Error
	if err != nil || stored > 0 {
		return err
	}
	return tx.AppendEvent(e)
}
