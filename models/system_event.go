package models

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/pressly/goose/v3/database"
	"gorm.io/gorm"

	"github.com/agentrouter/aikeys/models/migrations"
)

// The types that only system events have.
const (
	EventDataPlaneCreated EventType = "dataplane.created"
	EventDataPlaneRevoked EventType = "dataplane.revoked"
	EventKEKsChanged      EventType = "keks.changed"
	EventRewrapStarted    EventType = "rewrap.started"
	EventRewrapEnded      EventType = "rewrap.ended"
	EventFingerprintsMade EventType = "fingerprints.made"
	EventSchemaMigrated   EventType = "schema.migrated"
	// EventProjectRead says that an operator read a project's members, API keys, keys or fetches.
	EventProjectRead EventType = "project.read"
)

// The values of ActorMethod if there was no session. MethodAdmin means an operator's command; MethodService means an
// action that the service does on a schedule.
const (
	MethodAdmin   = "admin"
	MethodService = "service"
)

// Process identifies the actor where there is no session.
type Process struct {
	// Operator is the operating system's user that the process runs as, with @ and the machine's name.
	Operator string
	// Command is the name of the command that runs, such as "aikeysd migrate up".
	Command string
}

// SystemEvent is one line of the system trail. It records what an operator or a process of the service did, in a
// project or outside of all projects. It is written in the same transaction as the recorded act.
type SystemEvent struct {
	// ID is "evt_" and a ULID.
	ID   string `gorm:"primaryKey"`
	Type EventType
	At   int64
	// Actor and Command are the Process that did it.
	Actor, Command string
	// CustomerID and ProjectID name the project of the event; empty for none.
	CustomerID, ProjectID string
	// Subject is the id of the object that was acted on; empty for none.
	Subject string
	// Before and After are the object's states in JSON; null where it did not exist.
	Before, After string
}

// row returns the event as the row to store.
func (e SystemEvent) row() *Insert {
	return (&Insert{Table: "system_events"}).
		set("id", e.ID).set("type", string(e.Type)).set("at", e.At).set("actor", e.Actor).set("command", e.Command).
		set("customer_id", e.CustomerID).set("project_id", e.ProjectID).set("subject", e.Subject).
		set("before", cmp.Or(e.Before, "null")).set("after", cmp.Or(e.After, "null"))
}

// trail gives system events their ids and their actor.
type trail struct {
	Process
	ids IDs
}

// complete returns the event with its id, time and actor.
func (t *trail) complete(e SystemEvent, now int64) SystemEvent {
	e.ID, e.At, e.Actor, e.Command = t.ids.Next(EventIDPrefix, time.UnixMicro(now)), now, cmp.Or(t.Operator, "unknown"), t.Command
	return e
}

// StateInJSON returns a state in the form that system events hold.
func StateInJSON(state any) string {
	text, _ := json.Marshal(state) // of strings, numbers and lists: it cannot fail
	return string(text)
}

// AppendSystemEvent adds to the system trail. It sets the event's id, time and actor.
func (tx *Tx) AppendSystemEvent(e SystemEvent) error {
	row, params := tx.trail.complete(e, tx.Now).row(), Params{}
	_, err := tx.exec(row.Into()+`VALUES (`+params.Add(row.Values...)+`)`, params)
	return err
}

// RecordSystemEvent adds an event to the system trail in a transaction of its own.
func (s *Store) RecordSystemEvent(ctx context.Context, e SystemEvent) error {
	return s.Transact(ctx, func(tx *Tx) error { return tx.AppendSystemEvent(e) })
}

// RecordKEKs adds an EventKEKsChanged to the system trail if keks differs from the last such event. keks maps the ids
// of the sealer's key-encryption keys to their states. changed reports whether RecordKEKs added an event.
func (s *Store) RecordKEKs(ctx context.Context, keks map[string]string) (changed bool, err error) {
	err = s.Transact(ctx, func(tx *Tx) error {
		// Replicas that see a change at the same time take turns, so that one of them records it.
		if err := tx.locking().Where("id = 1").Find(&[]Canary{}).Error; err != nil {
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

// SystemEventFilter selects system events. Zero values select everything.
type SystemEventFilter struct {
	Type                         EventType
	Actor, CustomerID, ProjectID string
	// From and To bound the time of the event, in microseconds since the Unix epoch: at From or later, and before To.
	From, To int64
}

// ListSystemEvents returns the newest limit system events that the filter selects, newest first.
func (s *Store) ListSystemEvents(ctx context.Context, filter SystemEventFilter, limit int) ([]SystemEvent, error) {
	return find[SystemEvent](ctx, s, func(db *gorm.DB) *gorm.DB {
		db = whereEqual(db, "type", string(filter.Type), "actor", filter.Actor, "customer_id", filter.CustomerID, "project_id", filter.ProjectID)
		return between(db, filter.From, filter.To).Order("id DESC").Limit(limit)
	})
}

// whereEqual adds conditions to a query, from pairs of a column and its value. An empty value adds none.
func whereEqual(db *gorm.DB, pairs ...string) *gorm.DB {
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] != "" {
			db = db.Where(pair[0]+" = ?", pair[1])
		}
	}
	return db
}

// between adds bounds of time to a query of events: from or later, and before to; a zero adds no bound. The time in an
// event's id is the event's time or later. So a lower bound on the id excludes no event from the result, and it ends
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

// versionStore is goose's store of schema versions. It adds a system event for each version in the same transaction, once the
// schema has the table for them.
type versionStore struct {
	database.Store
	trail *trail
}

// TableExists implements database.StoreExtender, as goose's own store does: goose looks for its table in the catalogue.
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
