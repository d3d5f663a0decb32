package models

import (
	"context"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// UserKeys says whether members' own keys serve them.
type UserKeys string

// The choices of a policy on members' own keys.
const (
	UserKeysAllow   UserKeys = "allow"
	UserKeysRequire UserKeys = "require"
	UserKeysForbid  UserKeys = "forbid"
)

// OnBadKey says what happens when the provider refuses the chosen key.
type OnBadKey string

// The choices of a policy on refused keys.
const (
	OnBadKeyFail    OnBadKey = "fail"
	OnBadKeyNextKey OnBadKey = "next_key"
)

// OnLimited says what happens when the chosen key has reached a limit, its provider's or its own.
type OnLimited string

// The choices of a policy on keys that have reached a limit.
const (
	OnLimitedFail    OnLimited = "fail"
	OnLimitedNextKey OnLimited = "next_key"
)

// Operations says for which of the providers' operations a project's keys serve.
type Operations string

// The choices of a policy on operations.
const (
	OperationsInference Operations = "inference"
	OperationsAll       Operations = "all" // also administration of the provider's account
)

// Policy is a project's written policy.
type Policy struct {
	CustomerID         string `gorm:"primaryKey"`
	ProjectID          string `gorm:"primaryKey"`
	UserKeys           UserKeys
	UserKeysByProvider map[string]UserKeys `gorm:"serializer:json"`
	OnBadKey           OnBadKey
	OnLimited          OnLimited
	Operations         Operations
	// RemovalGraceDays is for how many days a member's removal can be undone unless the removal itself says; nil means
	// defaultRemovalGraceDays. Fetch does not read it.
	RemovalGraceDays *int
	UpdatedAt        int64 `gorm:"autoUpdateTime:false"`
	UpdatedBy        string
}

// TableName is the table's name.
func (Policy) TableName() string { return "project_policies" }

const defaultRemovalGraceDays = 30

// removalGrace returns for how long a member's removal can be undone unless the removal itself says.
func (p Policy) removalGrace() time.Duration {
	days := defaultRemovalGraceDays
	if p.RemovalGraceDays != nil {
		days = *p.RemovalGraceDays
	}
	return time.Duration(days) * 24 * time.Hour
}

// For returns the choice on members' own keys of one provider.
func (p Policy) For(provider string) UserKeys {
	if choice, ok := p.UserKeysByProvider[provider]; ok {
		return choice
	}
	return p.UserKeys
}

// DefaultPolicy returns the policy of a project that has not written one.
func DefaultPolicy(customerID, projectID string) Policy {
	return Policy{
		CustomerID: customerID, ProjectID: projectID,
		UserKeys: UserKeysAllow, OnBadKey: OnBadKeyFail, OnLimited: OnLimitedFail, Operations: OperationsInference,
	}
}

// Policy returns the project's policy, or the default if it has written none.
func (s *Store) Policy(ctx context.Context, c Caller) (p Policy, err error) {
	err = s.read(ctx, func(db *gorm.DB) error {
		p, err = findPolicy(db, c.CustomerID, c.ProjectID)
		return err
	})
	return p, err
}

func findPolicy(db *gorm.DB, customerID, projectID string) (Policy, error) {
	var rows []Policy
	err := db.Where("customer_id = ? AND project_id = ?", customerID, projectID).Limit(1).Find(&rows).Error
	if err != nil || len(rows) == 0 {
		return DefaultPolicy(customerID, projectID), err
	}
	return rows[0], nil
}

// state returns the policy in the form that events hold.
func (p Policy) state() *EventState {
	return &EventState{
		UserKeys: p.UserKeys, UserKeysByProvider: p.UserKeysByProvider, OnBadKey: p.OnBadKey, OnLimited: p.OnLimited, Operations: p.Operations,
		RemovalGraceDays: p.RemovalGraceDays,
	}
}

// SetPolicy stores a policy, and the event that tells data planes about it.
func (tx *Tx) SetPolicy(p *Policy, by string, event Event) error {
	if err := tx.lockProject(p.CustomerID, p.ProjectID); err != nil {
		return err
	}
	before, err := findPolicy(tx.db, p.CustomerID, p.ProjectID)
	if err != nil {
		return err
	}
	event.Before, event.After = before.state(), p.state()
	p.UpdatedAt, p.UpdatedBy = tx.Now, by
	if p.UserKeysByProvider == nil {
		p.UserKeysByProvider = map[string]UserKeys{} // the column holds an object, and GORM makes NULL of nil
	}
	if err := tx.db.Clauses(clause.OnConflict{UpdateAll: true}).Create(p).Error; err != nil {
		return err
	}
	return tx.AppendEvent(event)
}
