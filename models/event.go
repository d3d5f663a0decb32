package models

// EventType is what was done.
type EventType string

// The types of events.
const (
	EventKeyRegistered EventType = "key.registered"
	EventKeyRevoked    EventType = "key.revoked"
	EventKeyFailing    EventType = "key.failing"
	EventPolicySet     EventType = "policy.set"
	EventMemberSet     EventType = "member.set"
	EventMemberRemoved EventType = "member.removed"
	EventTokenCreated  EventType = "token.created"
	EventTokenRevoked  EventType = "token.revoked"
)

// Outcome is whether an act was carried out.
type Outcome string

// The outcomes. A denied act changed nothing.
const (
	OutcomeAllowed Outcome = "allowed"
	OutcomeDenied  Outcome = "denied"
)

// Event is one line of the audit trail, written in the transaction of the act it records.
type Event struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	// ScopeUserID is the user whose own key the event is about; only they may read it. Empty for all others.
	ScopeUserID string `gorm:"primaryKey"`
	// ID is "evt_" and a ULID.
	ID      string `gorm:"primaryKey"`
	Type    EventType
	Outcome Outcome
	At      int64
	// ActorUserID, ActorMethod and ActorTokenID say who did it, and how their session was authenticated.
	ActorUserID  string
	ActorMethod  string
	ActorTokenID string
	// KeyID, TokenID, Provider, MemberID and Role are what it was done to; empty where they do not apply.
	KeyID    string
	TokenID  string
	Provider string
	MemberID string
	Role     Role
	// SourceIP and RequestID say where it came from; empty for the operator's own command.
	SourceIP  string
	RequestID string
}
