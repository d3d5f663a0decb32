package models

import (
	"context"

	"gorm.io/gorm"
)

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

// Outcome is whether an act was carried out or refused.
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

// EventRow returns an event as the row to store. Its column tx is the number of the transaction.
func EventRow(e Event) *Insert {
	return newInsert("events").
		set("customer_id", e.CustomerID).set("project_id", e.ProjectID).set("scope_user_id", e.ScopeUserID).set("id", e.ID).
		set("type", string(e.Type)).set("outcome", string(e.Outcome)).set("at", e.At).
		set("actor_user_id", e.ActorUserID).set("actor_method", e.ActorMethod).set("actor_token_id", e.ActorTokenID).
		set("key_id", e.KeyID).set("token_id", e.TokenID).set("provider", e.Provider).
		set("member_id", e.MemberID).set("role", string(e.Role)).
		set("source_ip", e.SourceIP).set("request_id", e.RequestID)
}

// AppendEvent adds to the audit trail. Data planes are sent the events whose outcome is allowed. It is hand-written because the
// database computes tx.
func (tx *Tx) AppendEvent(e Event) error {
	row, params := EventRow(e), Params{}
	_, err := tx.exec(row.Into("tx")+`VALUES (`+tx.number+`, `+params.Add(row.Values...)+`)`, params)
	return err
}

// ListEvents returns a page of the project's events that the caller may read, newest first. before is the id of the last event
// of the page before; empty begins with the newest.
func (s *Store) ListEvents(ctx context.Context, c Caller, before string, limit int) ([]Event, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	// A page of each scope is read from its own range of the index, so that other members' events cost nothing.
	page := func(db *gorm.DB, scope string) *gorm.DB {
		db = db.Model(&Event{}).Where("customer_id = ? AND project_id = ? AND scope_user_id = ?", c.CustomerID, c.ProjectID, scope)
		if before != "" {
			db = db.Where("id < ?", before)
		}
		return db.Order("id DESC").Limit(limit)
	}
	db := s.orm(ctx)
	var events []Event
	err := db.Raw("SELECT * FROM (SELECT * FROM (?) AS shared UNION ALL SELECT * FROM (?) AS own) AS e ORDER BY id DESC LIMIT ?",
		page(db, ""), page(db, c.UserID), limit).Scan(&events).Error
	return events, s.classify(err)
}
