package models

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/agentrouter/aikeys/internal/position"
)

// EventType says what was done.
type EventType string

// The types of events.
const (
	EventKeyRegistered EventType = "key.registered"
	EventKeyRevoked    EventType = "key.revoked"
	EventKeyUpdated    EventType = "key.updated"
	EventKeyDisabled   EventType = "key.disabled"
	EventKeyEnabled    EventType = "key.enabled"
	EventKeyExpiring   EventType = "key.expiring"
	EventKeyExpired    EventType = "key.expired"
	EventKeyVerified   EventType = "key.verified"
	EventKeyFailing    EventType = "key.failing"
	EventKeyExposed    EventType = "key.exposed"
	// EventKeyRotated and EventKeyRotationRolledBack say that another version became active.
	EventKeyRotated            EventType = "key.rotated"
	EventKeyRotationRolledBack EventType = "key.rotation_rolled_back"
	EventKeyVersionAdded       EventType = "key.version_added"
	EventKeyVersionDestroyed   EventType = "key.version_destroyed"

	EventPolicySet     EventType = "policy.set"
	EventMemberSet     EventType = "member.set"
	EventMemberRemoved EventType = "member.removed"
	EventTokenCreated  EventType = "token.created"
	EventTokenRevoked  EventType = "token.revoked"
)

// Outcome says whether an act was carried out or refused.
type Outcome string

// The outcomes. A denied act changed nothing.
const (
	OutcomeAllowed Outcome = "allowed"
	OutcomeDenied  Outcome = "denied"
)

// Event is one line of the audit trail, written in the transaction of the act that it records.
type Event struct {
	CustomerID string `gorm:"primaryKey"`
	ProjectID  string `gorm:"primaryKey"`
	// ScopeUserID is the user whose own key the event is about; only they may read it. It is empty for all other events.
	ScopeUserID string `gorm:"primaryKey"`
	// ID is "evt_" and a ULID.
	ID      string `gorm:"primaryKey"`
	Type    EventType
	Outcome Outcome
	At      int64
	// ActorUserID, ActorMethod and ActorTokenID identify the actor, and say how the actor's session was authenticated.
	// For an operator, ActorUserID is Process.Operator.
	ActorUserID  string
	ActorMethod  string
	ActorTokenID string
	// KeyID, TokenID, Provider, MemberID and Role say what the event is about; they are empty where they do not apply.
	// In EventKeyFailing and EventKeyExposed, MemberID and TokenID identify the caller who made the request.
	KeyID    string
	TokenID  string
	Provider string
	MemberID string
	Role     Role
	// SourceIP and RequestID identify the request; empty for an operator's command.
	SourceIP  string
	RequestID string
	// Before and After are the states of a changed policy, member, key or custom provider. A state is nil if the object
	// did not exist at that time. After also has the result of a key's test, or the source of a key's leak. Both are
	// nil in other events.
	Before, After *EventState `gorm:"serializer:json"`
	// Repeated counts the denied attempts that the event stands for, from FirstAt to At; the event's other fields are
	// about the last attempt. Both are zero in an event of one attempt.
	Repeated, FirstAt int64
}

// EventState holds a member's role, a policy, the changed fields of a key, the result of a key's test, the source of a
// key's leak, or a custom provider.
type EventState struct {
	Name               string              `json:"name,omitempty"`
	ExpiresAt          int64               `json:"expires_at,omitempty"`
	Order              *int                `json:"order,omitempty"`
	Weight             *int                `json:"weight,omitempty"`
	Restrict           *Restrictions       `json:"restrict,omitempty"`
	Limit              *Limits             `json:"limit,omitempty"`
	Role               Role                `json:"role,omitempty"`
	UserKeys           UserKeys            `json:"user_keys,omitempty"`
	UserKeysByProvider map[string]UserKeys `json:"user_keys_by_provider,omitempty"`
	OnBadKey           OnBadKey            `json:"on_bad_key,omitempty"`
	OnLimited          OnLimited           `json:"on_limited,omitempty"`
	Operations         Operations          `json:"operations,omitempty"`
	RemovalGraceDays   *int                `json:"removal_grace_days,omitempty"`
	Verdict            string              `json:"verdict,omitempty"`
	Reason             string              `json:"reason,omitempty"`
	Forced             bool                `json:"forced,omitempty"`
	Version            uint32              `json:"version,omitempty"`
	BaseURL            string              `json:"base_url,omitempty"`
	// RetireAt is when the version is due to be destroyed; zero means at once.
	RetireAt int64  `json:"retire_at,omitempty"`
	Source   string `json:"source,omitempty"`
}

// EventRow returns an event as the row to store. The statement adds the column tx, the transaction's number.
func EventRow(e Event) *Insert {
	return (&Insert{Table: "events"}).
		set("customer_id", e.CustomerID).set("project_id", e.ProjectID).set("scope_user_id", e.ScopeUserID).set("id", e.ID).
		set("type", string(e.Type)).set("outcome", string(e.Outcome)).set("at", e.At).
		set("actor_user_id", e.ActorUserID).set("actor_method", e.ActorMethod).set("actor_token_id", e.ActorTokenID).
		set("key_id", e.KeyID).set("token_id", e.TokenID).set("provider", e.Provider).
		set("member_id", e.MemberID).set("role", string(e.Role)).
		set("source_ip", e.SourceIP).set("request_id", e.RequestID).
		set("before", StateInJSON(e.Before)).set("after", StateInJSON(e.After)).
		set("repeated", e.Repeated).set("first_at", e.FirstAt)
}

// AppendEvent adds an event to the audit trail, and to the system trail too if an operator did it. Data planes get the events
// whose outcome is allowed.
func (tx *Tx) AppendEvent(e Event) error {
	if err := tx.appendToProject(e); err != nil || e.ActorMethod != MethodAdmin {
		return err
	}
	return tx.AppendSystemEvent(SystemEvent{
		Type: e.Type, CustomerID: e.CustomerID, ProjectID: e.ProjectID, Subject: cmp.Or(e.KeyID, e.TokenID, e.MemberID),
		Before: StateInJSON(e.Before), After: StateInJSON(e.After),
	})
}

// appendToProject adds an event to the audit trail alone. It is hand-written because the database computes tx.
func (tx *Tx) appendToProject(e Event) error {
	row, params := EventRow(e), Params{}
	_, err := tx.exec(row.Into("tx")+`VALUES (`+tx.number+`, `+params.Add(row.Values...)+`)`, params)
	return err
}

// EventFilter selects events. Zero values select everything.
type EventFilter struct {
	KeyID, Actor, Provider string
	Type                   EventType
	Outcome                Outcome
	// From and To bound the time of the event, in microseconds since the Unix epoch: at From or later, and before To.
	From, To int64
}

// apply adds the filter to a query of events.
func (f EventFilter) apply(db *gorm.DB) *gorm.DB {
	db = whereEqual(db, "key_id", f.KeyID, "actor_user_id", f.Actor, "provider", f.Provider, "type", string(f.Type), "outcome", string(f.Outcome))
	return between(db, f.From, f.To)
}

// ListEvents returns a page of the project's events that the caller may read and the filter selects, newest first. before is the
// id of the last event of the previous page; empty begins with the newest.
func (s *Store) ListEvents(ctx context.Context, c Caller, filter EventFilter, before string, limit int) (events []Event, err error) {
	// A page of each scope is read from its own range of the index, so that other members' events cost nothing.
	page := func(db *gorm.DB, scope string) *gorm.DB {
		db = db.Model(&Event{}).Where("customer_id = ? AND project_id = ? AND scope_user_id = ?", c.CustomerID, c.ProjectID, scope)
		if before != "" {
			db = db.Where("id < ?", before)
		}
		return filter.apply(db).Order("id DESC").Limit(limit)
	}
	err = s.read(ctx, func(db *gorm.DB) error {
		return db.Raw("SELECT * FROM (SELECT * FROM (?) AS shared UNION ALL SELECT * FROM (?) AS own) AS e ORDER BY id DESC LIMIT ?",
			page(db, ""), page(db, c.UserID), limit).Scan(&events).Error
	})
	return events, err
}

// Change is an allowed event in the form for data planes.
type Change struct {
	// Tx is the number of the transaction that made it.
	Tx         int64
	Type       EventType
	CustomerID string
	ProjectID  string
	// UserID is the user whose own key, membership or API key the change is about; empty if the change is about the
	// project.
	UserID   string
	KeyID    string
	TokenID  string
	Provider string
	// Version is the version that was replaced or destroyed. RetireAt is when a replaced version is due to be
	// destroyed. Both are zero in other changes.
	Version  uint32
	RetireAt int64
}

// Stop returns the change as a stop. ok is false if the change is not a stop.
func (c Change) Stop() (stop Stop, ok bool) {
	switch c.Type {
	case EventKeyRevoked, EventKeyDisabled, EventKeyRotated, EventKeyRotationRolledBack:
		return Stop{c.Type, c.KeyID, c.CustomerID, c.Tx}, true
	case EventTokenRevoked:
		return Stop{c.Type, c.TokenID, c.CustomerID, c.Tx}, true
	case EventMemberRemoved:
		return Stop{c.Type, c.UserID, c.CustomerID, c.Tx}, true
	default:
		return Stop{}, false
	}
}

// ChangeColumns select a Change from an event. An event is about the user of its scope or, without one, about its member.
const ChangeColumns = `tx, type, customer_id, project_id, CASE WHEN scope_user_id <> '' THEN scope_user_id ELSE member_id END AS user_id,
key_id, token_id, provider, CASE WHEN type IN ('` + string(EventKeyRotated) + `', '` + string(EventKeyRotationRolledBack) + `', '` + string(EventKeyVersionDestroyed) + `')
THEN "before" ELSE '' END AS old`

// ChangesStatement returns a statement for the value of the SQL expression now and, in the same snapshot, the changes
// that the query unseen selects. If there are no changes, the statement returns one row with an empty Change. It is
// hand-written because every heartbeat and every resumed stream runs it, and because GORM cannot express it.
func ChangesStatement(now, unseen string) string {
	return `SELECT ` + now + `, COALESCE(c.tx, 0), COALESCE(c.type, ''), COALESCE(c.customer_id, ''), COALESCE(c.project_id, ''),
COALESCE(c.user_id, ''), COALESCE(c.key_id, ''), COALESCE(c.token_id, ''), COALESCE(c.provider, ''), COALESCE(c.old, '')
FROM (SELECT 1) AS one LEFT JOIN (` + unseen + `) AS c ON 1 = 1`
}

// ScanChange reads a row of ChangesStatement.
func ScanChange(row Row, now *string, changes *[]Change) error {
	var (
		c   Change
		old string
	)
	if err := row.Scan(now, &c.Tx, &c.Type, &c.CustomerID, &c.ProjectID, &c.UserID, &c.KeyID, &c.TokenID, &c.Provider, &old); err != nil {
		return err
	}
	var before EventState
	if json.Unmarshal([]byte(old), &before) == nil { // an unreadable state must not cost data planes their leases
		c.Version, c.RetireAt = before.Version, before.RetireAt
	}
	if c.Type != "" {
		*changes = append(*changes, c)
	}
	return nil
}

// Changes returns the changes committed since a position, in the order of their transactions' numbers, and the present
// position. Exactly these changes lie between the two positions, in whatever order transactions commit, and even while
// other transactions are running. If there are more than limit changes, Changes returns the first limit of them. If the
// present position ends before since, the database was restored from a backup.
func (s *Store) Changes(ctx context.Context, since position.Position, limit int) ([]Change, position.Position, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	changes, now, err := s.engine.Changes(ctx, since, limit)
	if err != nil {
		return nil, position.Position{}, s.classify(err)
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.Tx, b.Tx) })
	return changes[:min(len(changes), limit)], now, nil
}

// Position returns the present position.
func (s *Store) Position(ctx context.Context) (position.Position, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	now, err := s.engine.Position(ctx)
	return now, s.classify(err)
}

// Watch calls wake whenever this Store or, on PostgreSQL, another Store may have committed something, until ctx ends.
// wake must not block. While the connection to PostgreSQL is lost, Watch misses commits of other Stores, so a watcher
// that must not miss a change also polls. A Store has one watcher at a time.
func (s *Store) Watch(ctx context.Context, wake func()) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.engine.Listen(ctx, wake) })
	committed := make(chan struct{}, 1)
	group.Go(func() error {
		forEach(ctx, s.changed, func() {
			wake()
			signal(committed)
		})
		return nil
	})
	// This goroutine notifies other processes. It is separate, so that a slow database does not delay our own watcher.
	// It sends the NOTIFY after the commit, because a NOTIFY in the transaction would serialize writers. It ignores a
	// failure, because watchers also poll.
	group.Go(func() error {
		forEach(ctx, committed, func() {
			ctx, cancel := s.bounded(ctx)
			defer cancel()
			_ = s.engine.Notify(ctx)
		})
		return nil
	})
	return group.Wait()
}

// CheckNotifications returns ErrNoNotifications if the database does not notify this Store of other processes' commits. The feed
// then finds changes only by polling.
func (s *Store) CheckNotifications(ctx context.Context) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.engine.CheckNotifications(ctx))
}

// forEach calls do for each signal until ctx ends.
func forEach(ctx context.Context, signals <-chan struct{}, do func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			do()
		}
	}
}

// signal sends a signal, unless one is waiting already.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// Stream is the connection over which a data plane gets changes. Its row stays after the connection ends, for as long
// as the data plane may still hold a lease.
type Stream struct {
	// ID is a ULID.
	ID          string `gorm:"primaryKey"`
	DataPlaneID string
	ReplicaID   string
	// MaxStaleMs is the data plane's grace: how long it serves from its cache beyond its lease while no replica answers.
	MaxStaleMs int
	// TestsKeys reports whether the data plane tests keys for the control plane.
	TestsKeys bool
	// Position is where the stream began. Settled is the xmin of Position: when the stream began, the data plane
	// already knew of every transaction with a lower number.
	Position string
	Settled  int64
	// Forwarded is a position that the data plane acknowledged at another replica; empty for none. ForwardedInFlight
	// has the requests in flight that the data plane reported with this position and with earlier ones. Each line is
	// about one key: the key's id, a space, and how many requests were in flight.
	Forwarded         string
	ForwardedInFlight string
}

// maxForwarded bounds ForwardedInFlight, in bytes, so that a data plane cannot fill a row whose replica has died.
const maxForwarded = 64 << 10

// InFlight returns ForwardedInFlight by key id.
func (s Stream) InFlight() map[string]int {
	counts := map[string]int{}
	for line := range strings.Lines(s.ForwardedInFlight) {
		key, count, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if n, err := strconv.Atoi(count); err == nil {
			counts[key] = n
		}
	}
	return counts
}

// Replica is a process that serves streams.
type Replica struct {
	ID string `gorm:"primaryKey"`
	// Heartbeats counts the heartbeats that it has stored. It stops increasing when the process dies.
	Heartbeats int64 `gorm:"column:beat"`
}

// OpenStream stores a stream. If the stream continues another one, previous is the id of that stream, and OpenStream
// deletes it; otherwise previous is empty.
func (s *Store) OpenStream(ctx context.Context, stream Stream, previous string) error {
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		if previous != "" {
			err := tx.db.Where("id = ? AND data_plane_id = ?", previous, stream.DataPlaneID).Delete(&Stream{}).Error
			if err != nil {
				return err
			}
		}
		return tx.db.Create(&stream).Error
	})
}

// DropStreams deletes streams whose leases have run out.
func (s *Store) DropStreams(ctx context.Context, ids []string) error {
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		return tx.db.Where("id IN ?", ids).Delete(&Stream{}).Error
	})
}

// ForwardAcknowledgement stores an acknowledged position for the replica that has the stream, and how many requests
// were in flight with revoked keys, by key id. Errors: ErrNotFound if the data plane has no such stream.
func (s *Store) ForwardAcknowledgement(ctx context.Context, id, dataPlaneID string, at position.Position, inFlight map[string]int) error {
	var lines strings.Builder
	for key, n := range inFlight {
		_, _ = fmt.Fprintf(&lines, "%s %d\n", key, n) // it cannot fail
	}
	change := map[string]any{"forwarded": at.String()}
	if lines.Len() > 0 { // added to the lines that wait to be taken
		change["forwarded_in_flight"] = gorm.Expr(
			"CASE WHEN LENGTH(forwarded_in_flight) < ? THEN forwarded_in_flight || ? ELSE forwarded_in_flight END", maxForwarded, lines.String())
	}
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		done := tx.db.Model(&Stream{}).Where("id = ? AND data_plane_id = ?", id, dataPlaneID).Updates(change)
		if done.Error == nil && done.RowsAffected == 0 {
			return ErrNotFound
		}
		return done.Error
	})
}

// TakeForwarded returns the streams of a replica that have forwarded positions, and clears these positions.
func (s *Store) TakeForwarded(ctx context.Context, replicaID string) (waiting []Stream, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err = s.engine.ORM(ReservedPool).WithContext(ctx).Where("replica_id = ? AND forwarded <> ''", replicaID).Find(&waiting).Error
	if err != nil || len(waiting) == 0 {
		return nil, s.classify(err)
	}
	err = s.engine.Transact(ctx, ReservedPool, func(tx *Tx) error {
		for _, stream := range waiting {
			// If another position has been forwarded since, it stays, and the next call returns it.
			cleared := tx.db.Model(&Stream{}).
				Where("id = ? AND forwarded = ? AND forwarded_in_flight = ?", stream.ID, stream.Forwarded, stream.ForwardedInFlight).
				Updates(map[string]any{"forwarded": "", "forwarded_in_flight": ""})
			if cleared.Error != nil {
				return cleared.Error
			}
		}
		return nil
	})
	return waiting, s.classify(err)
}

// StreamIDs returns the ids of a replica's streams.
func (s *Store) StreamIDs(ctx context.Context, replicaID string) (ids []string, err error) {
	err = s.readFrom(ctx, BackgroundPool, func(db *gorm.DB) error {
		return db.Model(&Stream{}).Where("replica_id = ?", replicaID).Pluck("id", &ids).Error
	})
	return ids, err
}

// LongestStale returns the greatest MaxStaleMs of all streams whose data planes serve a customer.
func (s *Store) LongestStale(ctx context.Context, customerID string) (longest int, err error) {
	err = s.read(ctx, func(db *gorm.DB) error {
		return servedStreams(db, customerID).Select("COALESCE(MAX(streams.max_stale_ms), 0)").Scan(&longest).Error
	})
	return longest, err
}

// servedStreams selects the streams whose data planes serve a customer. Ids are not escaped in JSON, so a list of customers
// contains an id if the JSON contains it in quotes.
func servedStreams(db *gorm.DB, customerID string) *gorm.DB {
	return db.Model(&Stream{}).Joins("JOIN data_planes d ON d.id = streams.data_plane_id").
		Where("(d.customers = 'null' OR REPLACE(d.customers, ?, '') <> d.customers)", `"`+customerID+`"`)
}

// CountStreams returns how many streams each data plane has, by its id. Data planes without streams are left out.
func (s *Store) CountStreams(ctx context.Context) (map[string]int, error) {
	var rows []struct {
		DataPlaneID string
		Streams     int
	}
	err := s.read(ctx, func(db *gorm.DB) error {
		return db.Model(&Stream{}).Select("data_plane_id, count(*) AS streams").Group("data_plane_id").Find(&rows).Error
	})
	counts := make(map[string]int, len(rows))
	for _, row := range rows {
		counts[row.DataPlaneID] = row.Streams
	}
	return counts, err
}

// ServingStreams counts the streams of the data planes that serve exactly these customers; nil means all customers.
type ServingStreams struct {
	Customers []string `gorm:"serializer:json"`
	Streams   int
}

// CountServingStreams counts the streams by the customers that their data planes serve.
func (s *Store) CountServingStreams(ctx context.Context) (counts []ServingStreams, err error) {
	err = s.readFrom(ctx, BackgroundPool, func(db *gorm.DB) error {
		return db.Model(&Stream{}).Joins("JOIN data_planes d ON d.id = streams.data_plane_id").
			Select("d.customers, count(*) AS streams").Group("d.customers").Find(&counts).Error
	})
	return counts, err
}

// RecordHeartbeat stores that a replica is alive.
func (s *Store) RecordHeartbeat(ctx context.Context, replicaID string) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.classify(s.engine.Transact(ctx, ReservedPool, func(tx *Tx) error {
		return tx.db.Exec(`INSERT INTO replicas (id, beat) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET beat = replicas.beat + 1`,
			replicaID).Error
	}))
}

// Replicas returns all replicas: those that have stored heartbeats and, with zero heartbeats, those that only have streams.
func (s *Store) Replicas(ctx context.Context) (all []Replica, err error) {
	err = s.readFrom(ctx, BackgroundPool, func(db *gorm.DB) error {
		return db.Raw(`SELECT id, MAX(beat) AS beat FROM (SELECT id, beat FROM replicas
UNION ALL SELECT DISTINCT replica_id, 0 FROM streams) AS known GROUP BY id ORDER BY id`).Scan(&all).Error
	})
	return all, err
}

// DeleteDeadReplica deletes a dead replica's streams whose MaxStaleMs is at most maxStaleMs. The caller must know that
// the leases of these streams have ended. Once no stream is left, DeleteDeadReplica deletes the replica too. It does
// nothing if the replica has stored a heartbeat since r was read.
func (s *Store) DeleteDeadReplica(ctx context.Context, r Replica, maxStaleMs int) error {
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		// This locks the replica's row until the transaction ends, and inserts the row if there is none. So a heartbeat
		// comes either before this statement or after the deletion. If it comes before, no row matches here.
		held := tx.db.Exec(`INSERT INTO replicas (id, beat) VALUES (?, ?)
ON CONFLICT (id) DO UPDATE SET beat = replicas.beat WHERE replicas.beat = excluded.beat`, r.ID, r.Heartbeats)
		if held.Error != nil || held.RowsAffected == 0 {
			return held.Error
		}
		if err := tx.db.Where("replica_id = ? AND max_stale_ms <= ?", r.ID, maxStaleMs).Delete(&Stream{}).Error; err != nil {
			return err
		}
		return tx.db.Where("id = ? AND NOT EXISTS (SELECT 1 FROM streams WHERE replica_id = ?)", r.ID, r.ID).Delete(&Replica{}).Error
	})
}

// Receipt counts the acknowledgements of one stop by the data planes at one replica.
type Receipt struct {
	// StopID is the Stop's ID.
	StopID    string `gorm:"primaryKey;column:key_id"`
	ReplicaID string `gorm:"primaryKey"`
	// DataPlanes counts the data planes that had to acknowledge the stop, and Acknowledged those that have.
	DataPlanes   int
	Acknowledged int
	// SlowestUs is how long the slowest acknowledgement took, in microseconds.
	SlowestUs int64
	// Counted is how many of the acknowledgements said how many requests were in flight when the data plane dropped the
	// key. InFlight is the sum of these requests.
	Counted  int
	InFlight int64
	// ByDataPlane has the same counts for each data plane, or for some if there are many.
	ByDataPlane []DataPlaneReceipt `gorm:"serializer:json"`
}

// DataPlaneReceipt counts the acknowledgements of one stop by the streams of one data plane.
type DataPlaneReceipt struct {
	Name string `json:"name"`
	// Streams counts the streams that had to acknowledge the stop. Expired counts the streams whose leases ended before
	// they acknowledged it. Earlier releases did not store Streams, Expired and SlowestUs; zero means unknown.
	Streams      int   `json:"streams,omitempty"`
	Acknowledged int   `json:"acknowledged"`
	Expired      int   `json:"expired,omitempty"`
	SlowestUs    int64 `json:"slowest_us,omitempty"`
	Counted      int   `json:"counted"`
	InFlight     int64 `json:"in_flight"`
}

// SaveReceipts stores receipts in place of earlier ones.
func (s *Store) SaveReceipts(ctx context.Context, receipts []Receipt) error {
	if len(receipts) == 0 {
		return nil
	}
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		return tx.db.Clauses(clause.OnConflict{UpdateAll: true}).Create(&receipts).Error
	})
}

// Receipts returns the receipts of a stop. unheard has the names of the data planes that may not have got the stop yet.
// They have streams that began before the stop, at replicas without a receipt.
func (s *Store) Receipts(ctx context.Context, stop Stop) (receipts []Receipt, unheard []string, err error) {
	var open []struct{ ReplicaID, Position, Name string }
	err = s.read(ctx, func(db *gorm.DB) error {
		err := servedStreams(db, stop.CustomerID).Select("streams.replica_id, streams.position, d.name").
			Where("streams.settled <= ? AND streams.replica_id NOT IN (SELECT replica_id FROM receipts WHERE key_id = ?)", stop.Tx, stop.ID()).
			Find(&open).Error
		if err != nil {
			return err
		}
		// The receipts are read after the streams: a receipt that is made between the two reads counts the streams.
		return db.Where("key_id = ?", stop.ID()).Find(&receipts).Error
	})
	if err != nil {
		return nil, nil, err
	}
	for _, stream := range open {
		began, invalid := position.Parse(stream.Position)
		told := invalid == nil && began.Contains(stop.Tx)
		if !told && !slices.ContainsFunc(receipts, func(r Receipt) bool { return r.ReplicaID == stream.ReplicaID }) {
			unheard = append(unheard, stream.Name)
		}
	}
	return receipts, unheard, nil
}
