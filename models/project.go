package models

import (
	"cmp"
	"context"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Role is what a member may do in a project.
type Role string

// The roles. An owner may do everything that a member may.
const (
	RoleOwner  Role = "owner"
	RoleMember Role = "member"
)

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { return r == RoleOwner || r == RoleMember }

// Covers reports whether r may do what requires the role other.
func (r Role) Covers(other Role) bool {
	return r == RoleOwner || (r == RoleMember && other == RoleMember)
}

// Project is a customer's project.
type Project struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	CreatedAt  int64  `gorm:"autoCreateTime:false"`
}

// Member is a user who belongs to a project.
type Member struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	UserID     string `gorm:"primaryKey"`
	Role       Role
	CreatedAt  int64 `gorm:"autoCreateTime:false"`
	UpdatedAt  int64 `gorm:"autoUpdateTime:false"`
	// Before is the member before SetMember, for the event; nil for a new member. It is not a column.
	Before *EventState `gorm:"-"`
}

// TableName is the name that the access rules use.
func (Member) TableName() string { return "project_members" }

// ListMembers returns the members whose user ids follow the given one, in the order of the ids. A limit of zero means no limit.
func (s *Store) ListMembers(ctx context.Context, c Caller, after string, limit int) ([]Member, error) {
	return find[Member](ctx, s, func(db *gorm.DB) *gorm.DB {
		return db.Where("customer_id = ? AND project_id = ? AND user_id > ?", c.CustomerID, c.ProjectID, after).
			Order("user_id").Limit(cmp.Or(limit, -1))
	})
}

// EnsureProject creates the project if it does not exist.
func (tx *Tx) EnsureProject(customerID, projectID string) error {
	p := Project{CustomerID: customerID, ProjectID: projectID, CreatedAt: tx.Now}
	return tx.db.Clauses(clause.OnConflict{DoNothing: true}).Create(&p).Error
}

// SetMember gives a user a role in an existing project. Errors: ErrLastOwner if the project would be left without an
// owner.
func (tx *Tx) SetMember(customerID, projectID, userID string, role Role) (Member, error) {
	if err := tx.lockProject(customerID, projectID); err != nil {
		return Member{}, err
	}
	before, err := tx.roleState(customerID, projectID, userID)
	if err != nil {
		return Member{}, err
	}
	m := Member{CustomerID: customerID, ProjectID: projectID, UserID: userID, Role: role, CreatedAt: tx.Now, UpdatedAt: tx.Now}
	err = tx.db.Clauses(clause.OnConflict{
		Columns:   []clause.Column{{Name: "customer_id"}, {Name: "project_id"}, {Name: "user_id"}},
		DoUpdates: clause.AssignmentColumns([]string{"role", "updated_at"}),
	}).Create(&m).Error
	if err != nil {
		return Member{}, err
	}
	if err := tx.requireOwner(customerID, projectID); err != nil {
		return Member{}, err
	}
	err = tx.member(customerID, projectID, userID).Take(&m).Error
	m.Before = before
	return m, err
}

// roleState returns a member's role in the form that events hold, or nil if the user is not a member.
func (tx *Tx) roleState(customerID, projectID, userID string) (*EventState, error) {
	var members []Member
	if err := tx.member(customerID, projectID, userID).Limit(1).Find(&members).Error; err != nil || len(members) == 0 {
		return nil, err
	}
	return &EventState{Role: members[0].Role}, nil
}

// RemoveMember removes a user from a project, and stores the event that tells data planes. Errors: ErrNotFound,
// ErrLastOwner.
func (tx *Tx) RemoveMember(customerID, projectID, userID string, event Event) error {
	if err := tx.lockProject(customerID, projectID); err != nil {
		return err
	}
	before, err := tx.roleState(customerID, projectID, userID)
	if err != nil {
		return err
	}
	event.Before = before
	done := tx.member(customerID, projectID, userID).Delete(&Member{})
	if done.Error != nil {
		return done.Error
	}
	if done.RowsAffected == 0 {
		return ErrNotFound
	}
	if err := tx.requireOwner(customerID, projectID); err != nil {
		return err
	}
	return tx.AppendEvent(event)
}

func (tx *Tx) member(customerID, projectID, userID string) *gorm.DB {
	return tx.db.Where("customer_id = ? AND project_id = ? AND user_id = ?", customerID, projectID, userID)
}

// requireOwner returns ErrLastOwner if the project has no owner.
func (tx *Tx) requireOwner(customerID, projectID string) error {
	var owners int64
	err := tx.db.Model(&Member{}).Where("customer_id = ? AND project_id = ? AND role = ?", customerID, projectID, RoleOwner).
		Limit(1).Count(&owners).Error
	if err != nil {
		return err
	}
	if owners == 0 {
		return ErrLastOwner
	}
	return nil
}

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
	// RemovalGraceDays is how many days a member's removal can be undone if the removal does not set a time itself; nil
	// means defaultRemovalGraceDays. Fetch does not read it.
	RemovalGraceDays *int
	UpdatedAt        int64 `gorm:"autoUpdateTime:false"`
	UpdatedBy        string
}

// TableName is the table's name.
func (Policy) TableName() string { return "project_policies" }

const defaultRemovalGraceDays = 30

// removalGrace returns how long a member's removal can be undone if the removal does not set a time itself.
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
