package models

import (
	"context"
	"time"

	"gorm.io/gorm"
)

// KeyChange is a change of a key. Nil fields change nothing.
type KeyChange struct {
	Name     *string
	Disabled *bool
	// ExpiresAt is zero for never.
	ExpiresAt *int64
	// A Weight of zero removes the weight.
	Order, Weight *int
	Restrict      *RestrictionsChange
	Limit         *LimitsChange
}

// IsMade reports whether the change would change nothing.
func (c KeyChange) IsMade(k Key) bool {
	return (c.Name == nil || *c.Name == k.Name) && (c.Disabled == nil || *c.Disabled == (k.DisabledAt != 0)) &&
		(c.ExpiresAt == nil || *c.ExpiresAt == k.ExpiresAt) &&
		(c.Order == nil || *c.Order == k.Order) && (c.Weight == nil || *c.Weight == k.Weight) &&
		(c.Restrict == nil || c.Restrict.apply(k.Restrictions).Equal(k.Restrictions)) && c.Limit.apply(k.Limits) == k.Limits
}

// LockKey does the same as Key, and locks the key.
func (tx *Tx) LockKey(c Caller, id string) (Key, error) { return findKey(tx.locking(), c, id) }

// UpdateKey changes a key, and stores newEvent's events. k comes from LockKey, and is not revoked. If nothing would
// change, UpdateKey stores no event and does not increase the revision. Errors: ErrAlreadyExists for a name that is
// taken.
func (tx *Tx) UpdateKey(k Key, change KeyChange, by string, newEvent func(EventType) Event) error {
	columns := map[string]any{}
	events, err := tx.disable(k, change.Disabled, by, newEvent, columns)
	if err != nil {
		return err
	}
	var before, after EventState
	if change.Name != nil && *change.Name != k.Name {
		columns["name"], before.Name, after.Name = *change.Name, k.Name, *change.Name
	}
	if change.ExpiresAt != nil && *change.ExpiresAt != k.ExpiresAt {
		columns["expires_at"], before.ExpiresAt, after.ExpiresAt = *change.ExpiresAt, k.ExpiresAt, *change.ExpiresAt
		columns["expiry_due_at"] = nextExpiryNotice(*change.ExpiresAt, tx.Now)
	}
	if limits := change.Limit.apply(k.Limits); limits != k.Limits {
		columns["limits"], before.Limit, after.Limit = limits, &k.Limits, &limits
	}
	if change.arrange(k, columns, &before, &after) || before.Name != "" || before.ExpiresAt != after.ExpiresAt || before.Limit != nil {
		event := newEvent(EventKeyUpdated)
		event.Before, event.After = &before, &after
		events = append(events, event)
	}
	if len(events) == 0 {
		return nil
	}
	columns["revision"] = gorm.Expr("revision + 1")
	err = tx.db.Model(&Key{}).Where("id = ?", k.ID).Updates(columns).Error
	for i := 0; err == nil && i < len(events); i++ {
		err = tx.AppendEvent(events[i])
	}
	return err
}

// disable adds the columns that disable or enable a key to columns, and returns the event. A nil disabled changes
// nothing.
func (tx *Tx) disable(k Key, disabled *bool, by string, newEvent func(EventType) Event, columns map[string]any) ([]Event, error) {
	isDisabled, err := tx.isDisabledByPeople(k)
	switch {
	case err != nil || disabled == nil || *disabled == isDisabled:
		return nil, err
	case *disabled: // the event is stored first, so that tx.number is the same in the event and the row
		columns["disabled_at"], columns["disabled_by"], columns["disabled_tx"] = tx.Now, by, gorm.Expr(tx.number)
		return []Event{newEvent(EventKeyDisabled)}, nil
	}
	columns["disabled_at"], columns["disabled_by"], columns["disabled_tx"] = 0, "", 0
	return []Event{newEvent(EventKeyEnabled)}, nil
}

// isDisabledByPeople reports whether a key is disabled, and not only by the removal of its user, which can be undone.
func (tx *Tx) isDisabledByPeople(k Key) (bool, error) {
	if k.RemovalID == "" {
		return k.DisabledAt != 0, nil
	}
	var removals int64
	err := tx.db.Model(&Removal{}).Where("id = ? AND tx = ?", k.RemovalID, k.DisabledTx).Count(&removals).Error
	return removals == 0, err
}

// arrange adds the changes of order, weight and restrictions to the columns to write and to the event's states. It reports
// whether there are any.
func (c KeyChange) arrange(k Key, columns map[string]any, before, after *EventState) bool {
	if c.Order != nil && *c.Order != k.Order {
		columns["serve_order"], before.Order, after.Order = *c.Order, new(k.Order), c.Order
		k.Order = *c.Order
	}
	if c.Weight != nil && *c.Weight != k.Weight {
		columns["weight"], before.Weight, after.Weight = *c.Weight, new(k.Weight), c.Weight
		k.Weight = *c.Weight
	}
	if restricted := c.Restrict.apply(k.Restrictions); !restricted.Equal(k.Restrictions) {
		columns["restrictions"], before.Restrict, after.Restrict = restricted, new(k.Restrictions), &restricted
		k.Restrictions = restricted
	}
	if before.Order == nil && before.Weight == nil && before.Restrict == nil {
		return false
	}
	columns["arranged"] = k.IsArranged()
	return true
}

// expiryNotices are the times before a key's expiry at which events are due: EventKeyExpiring, and finally EventKeyExpired.
var expiryNotices = [...]time.Duration{30 * 24 * time.Hour, 7 * 24 * time.Hour, 24 * time.Hour, 0}

// nextExpiryNotice returns when the next event about a key's expiry is due after a time; zero for none.
func nextExpiryNotice(expiresAt, after int64) int64 {
	for _, ahead := range expiryNotices {
		if due := expiresAt - ahead.Microseconds(); due > after {
			return due
		}
	}
	return 0
}

// AnnounceExpiries stores the expiry events that are due at the time now, for up to limit keys, and returns how many
// keys it found. Even if several processes do so at the same time, each event is stored once.
func (s *Store) AnnounceExpiries(ctx context.Context, now int64, limit int, newEvent func(EventType, Key) Event) (int, error) {
	return s.eachDue(ctx, func(db *gorm.DB) *gorm.DB {
		return db.Model(&Key{}).Select("id").Where("expiry_due_at <> 0 AND expiry_due_at <= ?", now).
			Order("expiry_due_at").Limit(limit)
	}, func(tx *Tx, id string) error {
		k, err := tx.LockAnyKey(id)
		if err != nil || k.ExpiryDueAt == 0 || k.ExpiryDueAt > now { // another process was faster, or the time was changed
			return err
		}
		err = tx.db.Model(&Key{}).Where("id = ?", id).Update("expiry_due_at", nextExpiryNotice(k.ExpiresAt, now)).Error
		if err != nil || k.RevokedAt != 0 { // revoked by a process of an earlier release
			return err
		}
		kind := EventKeyExpiring
		if k.ExpiresAt <= now {
			kind = EventKeyExpired
		}
		event := newEvent(kind, k)
		event.After = &EventState{ExpiresAt: k.ExpiresAt}
		return tx.AppendEvent(event)
	})
}
