package models

// Role is what a member may do in a project.
type Role string

// The roles. An owner may do whatever a member may.
const (
	RoleOwner  Role = "owner"
	RoleMember Role = "member"
)

// Valid tells whether r is one of the roles.
func (r Role) Valid() bool { return r == RoleOwner || r == RoleMember }

// Covers tells whether r may do what needs the role other.
func (r Role) Covers(other Role) bool {
	return r == RoleOwner || (r == RoleMember && other == RoleMember)
}

// Project is a customer's project.
type Project struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	CreatedAt  int64  `gorm:"autoCreateTime:false"`
}

// Member is a user's place in a project.
type Member struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	UserID     string `gorm:"primaryKey"`
	Role       Role
	CreatedAt  int64 `gorm:"autoCreateTime:false"`
	UpdatedAt  int64 `gorm:"autoUpdateTime:false"`
}

// TableName is the name that the access rules use.
func (Member) TableName() string { return "project_members" }

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

// Policy is a project's written policy.
type Policy struct {
	CustomerID         string `gorm:"primaryKey"`
	ProjectID          string `gorm:"primaryKey"`
	UserKeys           UserKeys
	UserKeysByProvider map[string]UserKeys `gorm:"serializer:json"`
	OnBadKey           OnBadKey
	UpdatedAt          int64 `gorm:"autoUpdateTime:false"`
	UpdatedBy          string
}

// TableName says whose policy it is.
func (Policy) TableName() string { return "project_policies" }

// For returns what the policy says on members' own keys of one provider.
func (p Policy) For(provider string) UserKeys {
	if choice, ok := p.UserKeysByProvider[provider]; ok {
		return choice
	}
	return p.UserKeys
}

// DefaultPolicy is the policy of a project that never wrote one.
func DefaultPolicy(customerID, projectID string) Policy {
	return Policy{CustomerID: customerID, ProjectID: projectID, UserKeys: UserKeysAllow, OnBadKey: OnBadKeyFail}
}
