package models

import (
	"context"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// UserKeys is whether members' own keys serve them.
type UserKeys string

// The choices of a policy on members' own keys.
const (
	UserKeysAllow   UserKeys = "allow"
	UserKeysRequire UserKeys = "require"
	UserKeysForbid  UserKeys = "forbid"
)

// OnBadKey is what happens when the provider refuses the chosen key.
type OnBadKey string

// The choices of a policy on refused keys.
const (
	OnBadKeyFail    OnBadKey = "fail"
	OnBadKeyNextKey OnBadKey = "next_key"
)

// OnLimited is what happens when the chosen key is at a limit, its provider's or its own.
type OnLimited string

// The choices of a policy on keys that are at a limit.
const (
	OnLimitedFail    OnLimited = "fail"
	OnLimitedNextKey OnLimited = "next_key"
)

// Operations is which operations of providers a project's keys serve.
type Operations string

// The choices of a policy on operations.
const (
	OperationsInference Operations = "inference"
	OperationsAll       Operations = "all" // administration of the provider's account, too
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
	// RemovalGraceDays is for how many days the removal of a member can be undone if it does not say; nil is the default. Fetch does not read it.
	RemovalGraceDays *int
	UpdatedAt        int64 `gorm:"autoUpdateTime:false"`
	UpdatedBy        string
}

// TableName is the table's name.
func (Policy) TableName() string { return "project_policies" }

// RemovalGrace is how long the removal of a member can be undone if it does not say.
func (p Policy) RemovalGrace() time.Duration {
	days := defaultRemovalGraceDays
	if p.RemovalGraceDays != nil {
		days = *p.RemovalGraceDays
	}
	return time.Duration(days) * 24 * time.Hour
}

const defaultRemovalGraceDays = 30

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
func (s *Store) Policy(ctx context.Context, c Caller) (Policy, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	p, err := policyOf(s.orm(ctx), c.CustomerID, c.ProjectID)
	return p, s.classify(err)
}

func policyOf(db *gorm.DB, customerID, projectID string) (Policy, error) {
	var rows []Policy
	err := db.Where("customer_id = ? AND project_id = ?", customerID, projectID).Limit(1).Find(&rows).Error
	if err != nil || len(rows) == 0 {
		return DefaultPolicy(customerID, projectID), err
	}
	return rows[0], nil
}

// state returns the policy as an event has it.
func (p Policy) state() *EventState {
	return &EventState{
		UserKeys: p.UserKeys, UserKeysByProvider: p.UserKeysByProvider, OnBadKey: p.OnBadKey, OnLimited: p.OnLimited, Operations: p.Operations,
		RemovalGraceDays: p.RemovalGraceDays,
	}
}

// SetPolicy puts a policy in force, with the event from which data planes learn of it.
func (tx *Tx) SetPolicy(p *Policy, by string, event Event) error {
	if err := tx.lockProject(p.CustomerID, p.ProjectID); err != nil {
		return err
	}
	before, err := policyOf(tx.db, p.CustomerID, p.ProjectID)
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
