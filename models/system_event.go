package models

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/pressly/goose/v3/database"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/agentrouter/aikeys/models/migrations"
)

// The types of system events that events of projects do not have.
const (
	EventDataPlaneCreated EventType = "dataplane.created"
	EventDataPlaneRevoked EventType = "dataplane.revoked"
	EventKEKsChanged      EventType = "keks.changed"
	EventRewrapStarted    EventType = "rewrap.started"
	EventRewrapEnded      EventType = "rewrap.ended"
	EventFingerprintsMade EventType = "fingerprints.made"
	EventSchemaMigrated   EventType = "schema.migrated"
	// EventProjectRead is that an operator read a project's members, API keys, keys or fetches.
	EventProjectRead EventType = "project.read"
)

// The values of ActorMethod that stand for no session: MethodAdmin for what an operator did to a project by a command, MethodService for
// what the service does by the clock.
const (
	MethodAdmin   = "admin"
	MethodService = "service"
)

// Process is who acts by a Store where no session does, and with which command.
type Process struct {
	// Operator is the user of the machine that the process runs as, with @ and the machine's name.
	Operator string
	// Command is the name of the command that runs, such as "aikeysd migrate up".
	Command string
}

// SystemEvent is one line of the system trail: what operators and processes of the service did, in projects or outside of any. It is
// written in the transaction of the act it records.
type SystemEvent struct {
	// ID is "evt_" and a ULID.
	ID   string `gorm:"primaryKey"`
	Type EventType
	At   int64
	// Actor and Command are those of the process that did it.
	Actor, Command string
	// CustomerID and ProjectID name the project of the event. They are empty if it belongs to none.
	CustomerID, ProjectID string
	// Subject is the id of the object of the event, if it has one.
	Subject string
	// Before and After are what was changed, in JSON; null is what did not exist.
	Before, After string
}

// row returns the event as the row to store.
func (e SystemEvent) row() *Insert {
	return newInsert("system_events").
		set("id", e.ID).set("type", string(e.Type)).set("at", e.At).set("actor", e.Actor).set("command", e.Command).
		set("customer_id", e.CustomerID).set("project_id", e.ProjectID).set("subject", e.Subject).
		set("before", cmp.Or(e.Before, "null")).set("after", cmp.Or(e.After, "null"))
}

// trail gives the system events of a store their ids and their actor.
type trail struct {
	Process
	ids IDs
}

// complete returns the event with its id, time and actor.
func (t *trail) complete(e SystemEvent, now int64) SystemEvent {
	e.ID, e.At, e.Actor, e.Command = t.ids.Next(EventIDPrefix, time.UnixMicro(now)), now, cmp.Or(t.Operator, "unknown"), t.Command
	return e
}

// StateInJSON returns a state as system events hold it.
func StateInJSON(state any) string {
	text, _ := json.Marshal(state) // strings, numbers and lists: it can't fail
	return string(text)
}

// AppendSystemEvent adds to the system trail. It sets the event's id, time and actor.
func (tx *Tx) AppendSystemEvent(e SystemEvent) error {
	row, params := tx.trail.complete(e, tx.Now).row(), Params{}
	_, err := tx.exec(row.Into()+`VALUES (`+params.Add(row.Values...)+`)`, params)
	return err
}

// RecordSystemEvent adds an event to the system trail whose act changes nothing else in the same transaction.
func (s *Store) RecordSystemEvent(ctx context.Context, e SystemEvent) error {
	return s.Transact(ctx, func(tx *Tx) error { return tx.AppendSystemEvent(e) })
}

// RecordKEKs adds to the system trail that the sealer has other key-encryption keys, or has them in other states, than the trail
// says, and reports whether it did. keks are the states by the ids.
func (s *Store) RecordKEKs(ctx context.Context, keks map[string]string) (changed bool, err error) {
	err = s.Transact(ctx, func(tx *Tx) error {
		// Replicas that see a change at the same time take turns, so that one of them records it.
		if err := tx.db.Clauses(clause.Locking{Strength: "UPDATE"}).Where("id = 1").Find(&[]Canary{}).Error; err != nil {
			return err
		}
		var last SystemEvent
		err := tx.db.Where("type = ?", EventKEKsChanged).Order("id DESC").Take(&last).Error
		if err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
			return err
		}
		now := StateInJSON(keks)
		if changed = last.After != now; !changed {
			return nil
		}
		return tx.AppendSystemEvent(SystemEvent{Type: EventKEKsChanged, Before: last.After, After: now})
	})
	return changed && err == nil, err
}

// SystemEventFilter selects system events. What is zero selects all.
type SystemEventFilter struct {
	Type                         EventType
	Actor, CustomerID, ProjectID string
	// From and To bound when it was done, in microseconds since the Unix epoch: at From or later, and before To.
	From, To int64
}

// ListSystemEvents returns the newest limit system events that the filter selects, newest first.
func (s *Store) ListSystemEvents(ctx context.Context, filter SystemEventFilter, limit int) ([]SystemEvent, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	db := s.orm(ctx)
	for _, equal := range [...]struct{ column, value string }{
		{"type", string(filter.Type)}, {"actor", filter.Actor}, {"customer_id", filter.CustomerID}, {"project_id", filter.ProjectID},
	} {
		if equal.value != "" {
			db = db.Where(equal.column+" = ?", equal.value)
		}
	}
	var events []SystemEvent
	err := between(db, filter.From, filter.To).Order("id DESC").Limit(limit).Find(&events).Error
	return events, s.classify(err)
}

// between adds the bounds of time to a query of events. Ids begin with the time, at the earliest that of the event, so that from ends
// the walk through the index.
func between(db *gorm.DB, from, to int64) *gorm.DB {
	if from > 0 {
		var first ulid.ULID
		_ = first.SetTime(uint64(min(from/1000, maxMillis)))
		db = db.Where("id >= ? AND at >= ?", EventIDPrefix+first.String(), from)
	}
	if to > 0 {
		db = db.Where("at < ?", to)
	}
	return db
}

// versionStore is where goose notes the versions of the schema. It adds a system event for each in the same transaction, from the
// version on that has the table.
type versionStore struct {
	database.Store
	trail *trail
}

// TableExists lets goose look for its table in the catalogue, as it does without this type.
func (v versionStore) TableExists(ctx context.Context, db database.DBTxConn) (bool, error) {
	if own, ok := v.Store.(database.StoreExtender); ok {
		return own.TableExists(ctx, db)
	}
	return false, errors.ErrUnsupported
}

// Insert implements database.Store.
func (v versionStore) Insert(ctx context.Context, db database.DBTxConn, req database.InsertRequest) error {
	if err := v.Store.Insert(ctx, db, req); err != nil || req.Version < migrations.SystemEvents {
		return err
	}
	type schema struct {
		Version int64 `json:"version"`
	}
	row, params := v.trail.complete(SystemEvent{
		Type: EventSchemaMigrated, Before: StateInJSON(schema{req.Version - 1}), After: StateInJSON(schema{req.Version}),
	}, time.Now().UnixMicro()).row(), Params{}
	_, err := db.ExecContext(ctx, row.Into()+`VALUES (`+params.Add(row.Values...)+`)`, params...)
	return err
}
