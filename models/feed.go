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

// EventType is what was done.
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
	// EventKeyRotated and EventKeyRotationRolledBack are that another version became active.
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
	// ActorUserID, ActorMethod and ActorTokenID say who did it, and how their session was authenticated. An operator's name is
	// that of a user of a machine, with @ and the machine's name.
	ActorUserID  string
	ActorMethod  string
	ActorTokenID string
	// KeyID, TokenID, Provider, MemberID and Role are what it was done to; empty where they do not apply. MemberID and TokenID
	// of EventKeyFailing and EventKeyExposed are the caller's whose request it was.
	KeyID    string
	TokenID  string
	Provider string
	MemberID string
	Role     Role
	// SourceIP and RequestID say where it came from; empty for an operator's command.
	SourceIP  string
	RequestID string
	// Before and After are what a change of the policy, of a member or of a key changed; After is also what a test of a key found. Nil is
	// what did not exist, and in other events.
	Before, After *EventState `gorm:"serializer:json"`
	// Repeated is how many denied attempts the event stands for, of which the first was at FirstAt and the last at At; the rest of the
	// event is about the last one. Zero in events of one attempt.
	Repeated, FirstAt int64
}

// EventState is a member's role, a policy, what was changed of a key, what a test of it found, why and from where it was found to have leaked,
// or a server of a customer's own.
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
	// RetireAt is when the version is due to be destroyed; zero if that is at once.
	RetireAt int64  `json:"retire_at,omitempty"`
	Source   string `json:"source,omitempty"`
}

// text returns the state as the column holds it.
func (s *EventState) text() string {
	text, _ := json.Marshal(s) // strings: it can't fail
	return string(text)
}

// EventRow returns an event as the row to store. Its column tx is the number of the transaction.
func EventRow(e Event) *Insert {
	return newInsert("events").
		set("customer_id", e.CustomerID).set("project_id", e.ProjectID).set("scope_user_id", e.ScopeUserID).set("id", e.ID).
		set("type", string(e.Type)).set("outcome", string(e.Outcome)).set("at", e.At).
		set("actor_user_id", e.ActorUserID).set("actor_method", e.ActorMethod).set("actor_token_id", e.ActorTokenID).
		set("key_id", e.KeyID).set("token_id", e.TokenID).set("provider", e.Provider).
		set("member_id", e.MemberID).set("role", string(e.Role)).
		set("source_ip", e.SourceIP).set("request_id", e.RequestID).
		set("before", e.Before.text()).set("after", e.After.text()).
		set("repeated", e.Repeated).set("first_at", e.FirstAt)
}

// AppendEvent adds to the audit trail, and what an operator did to the system trail too. Data planes are sent the events whose
// outcome is allowed.
func (tx *Tx) AppendEvent(e Event) error {
	if err := tx.appendToProject(e); err != nil || e.ActorMethod != MethodAdmin {
		return err
	}
	return tx.AppendSystemEvent(SystemEvent{
		Type: e.Type, CustomerID: e.CustomerID, ProjectID: e.ProjectID, Subject: cmp.Or(e.KeyID, e.TokenID, e.MemberID),
		Before: e.Before.text(), After: e.After.text(),
	})
}

// appendToProject adds to the audit trail alone. It is hand-written because the database computes tx.
func (tx *Tx) appendToProject(e Event) error {
	row, params := EventRow(e), Params{}
	_, err := tx.exec(row.Into("tx")+`VALUES (`+tx.number+`, `+params.Add(row.Values...)+`)`, params)
	return err
}

// EventFilter selects events. What is zero selects all.
type EventFilter struct {
	KeyID, Actor, Provider string
	Type                   EventType
	Outcome                Outcome
	// From and To bound when it was done, in microseconds since the Unix epoch: at From or later, and before To.
	From, To int64
}

// apply adds the filter to a query of events.
func (f EventFilter) apply(db *gorm.DB) *gorm.DB {
	for _, equal := range [...]struct{ column, value string }{
		{"key_id", f.KeyID}, {"actor_user_id", f.Actor}, {"provider", f.Provider}, {"type", string(f.Type)}, {"outcome", string(f.Outcome)},
	} {
		if equal.value != "" {
			db = db.Where(equal.column+" = ?", equal.value)
		}
	}
	return between(db, f.From, f.To)
}

// ListEvents returns a page of the project's events that the caller may read and the filter selects, newest first. before is the id
// of the last event of the page before; empty begins with the newest.
func (s *Store) ListEvents(ctx context.Context, c Caller, filter EventFilter, before string, limit int) ([]Event, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	// A page of each scope is read from its own range of the index, so that other members' events cost nothing.
	page := func(db *gorm.DB, scope string) *gorm.DB {
		db = db.Model(&Event{}).Where("customer_id = ? AND project_id = ? AND scope_user_id = ?", c.CustomerID, c.ProjectID, scope)
		if before != "" {
			db = db.Where("id < ?", before)
		}
		return filter.apply(db).Order("id DESC").Limit(limit)
	}
	db := s.orm(ctx)
	var events []Event
	err := db.Raw("SELECT * FROM (SELECT * FROM (?) AS shared UNION ALL SELECT * FROM (?) AS own) AS e ORDER BY id DESC LIMIT ?",
		page(db, ""), page(db, c.UserID), limit).Scan(&events).Error
	return events, s.classify(err)
}

// Change is an act that was carried out, as data planes are told of it.
type Change struct {
	// Tx is the number of the transaction that made it.
	Tx         int64
	Type       EventType
	CustomerID string
	ProjectID  string
	// UserID is whose own key, membership or API key it is about; empty where it is about the project.
	UserID   string
	KeyID    string
	TokenID  string
	Provider string
	// Version is the version that was replaced or destroyed, and RetireAt when the one that was replaced is due to be destroyed. Zero in
	// other changes.
	Version  uint32
	RetireAt int64
}

// ChangeColumns select a Change from an event. An event is about the user of its scope, else about its member.
const ChangeColumns = `tx, type, customer_id, project_id, CASE WHEN scope_user_id <> '' THEN scope_user_id ELSE member_id END AS user_id,
key_id, token_id, provider, CASE WHEN type IN ('` + string(EventKeyRotated) + `', '` + string(EventKeyRotationRolledBack) + `', '` + string(EventKeyVersionDestroyed) + `')
THEN "before" ELSE '' END AS old`

// ChangesStatement returns a statement that selects the expression now once, and beside it the changes that unseen selects. A row
// with an empty Change comes even when there are none. Both are of one snapshot. It is hand-written since every heartbeat and
// every resumed stream runs it, and since GORM has no words for it.
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
	if json.Unmarshal([]byte(old), &before) == nil { // what can't be read must not keep data planes from their leases
		c.Version, c.RetireAt = before.Version, before.RetireAt
	}
	if c.Type != "" {
		*changes = append(*changes, c)
	}
	return nil
}

// Changes returns what was committed since a position, and the position as of now: the two differ by exactly these changes,
// whatever order their transactions committed in and whatever is still running. They are in the order of their numbers. If there are
// more than limit changes, it returns the first limit of them. A position that ends before since shows that the database was put back to an earlier state.
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

// Position returns what is committed now.
func (s *Store) Position(ctx context.Context) (position.Position, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	now, err := s.engine.Position(ctx)
	return now, s.classify(err)
}

// Watch calls wake, which must not block, whenever something may have been committed by this Store or, on PostgreSQL, by
// another one, until ctx ends. While the connection to PostgreSQL is lost, wake-ups are lost too: who must not miss a change
// also looks from time to time. A Store has one watcher at a time.
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
	// In a goroutine of its own, so that a slow database does not delay our own watcher. After the commit, because NOTIFY within
	// a transaction would make writers take turns. A failure is not reported: watchers look from time to time.
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

// CheckNotifications returns ErrNoNotifications if the database does not notify this Store of what other processes commit. The feed then
// finds changes only by polling.
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

// signal leaves a signal, unless one waits already.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// Wake wakes the watchers of the database, as a commit does.
func (s *Store) Wake() { signal(s.changed) }

// Stream is the connection over which a data plane is told of changes. Its row outlives the connection by the lease that the
// data plane may still hold.
type Stream struct {
	// ID is a ULID.
	ID          string `gorm:"primaryKey"`
	DataPlaneID string
	ReplicaID   string
	// MaxStaleMs is how much longer than its lease the data plane serves from its cache while no replica answers.
	MaxStaleMs int
	// TestsKeys is whether the data plane tests keys for the control plane.
	TestsKeys bool
	// Position is where the stream began, Settled its xmin. The data plane knows what is in it without the stream.
	Position string
	Settled  int64
	// Forwarded is a position that the data plane acknowledged at another replica; empty when there is none. ForwardedInFlight came
	// with it and those before: for each key, a line with its id, a space and how many requests were in flight.
	Forwarded         string
	ForwardedInFlight string
}

// maxForwarded bounds how many bytes of ForwardedInFlight wait to be taken, so that a data plane can't fill a row whose replica has died.
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
	// Heartbeats counts the heartbeats that it has stored. It stands still when the process has died.
	Heartbeats int64 `gorm:"column:beat"`
}

// OpenStream stores a stream, in place of the stream that it continues: previous, which is empty when there is none.
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

// ForwardAcknowledgement stores an acknowledged position for the replica that has the stream, and how many requests were in flight
// with revoked keys, by key id: ErrNotFound when the data plane has no such stream.
func (s *Store) ForwardAcknowledgement(ctx context.Context, id, dataPlaneID string, at position.Position, inFlight map[string]int) error {
	var lines strings.Builder
	for key, n := range inFlight {
		_, _ = fmt.Fprintf(&lines, "%s %d\n", key, n) // it can't fail
	}
	change := map[string]any{"forwarded": at.String()}
	if lines.Len() > 0 { // what waits to be taken stays
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

// TakeForwarded returns the streams of a replica that have forwarded positions, and clears these.
func (s *Store) TakeForwarded(ctx context.Context, replicaID string) ([]Stream, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var waiting []Stream
	err := s.engine.ORM(ReservedPool).WithContext(ctx).Where("replica_id = ? AND forwarded <> ''", replicaID).Find(&waiting).Error
	if err != nil || len(waiting) == 0 {
		return nil, s.classify(err)
	}
	err = s.engine.Transact(ctx, ReservedPool, func(tx *Tx) error {
		for _, stream := range waiting {
			// Unless something has been forwarded since, which the next call returns.
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
func (s *Store) StreamIDs(ctx context.Context, replicaID string) ([]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var ids []string
	err := s.background(ctx).Model(&Stream{}).Where("replica_id = ?", replicaID).Pluck("id", &ids).Error
	return ids, s.classify(err)
}

// background returns GORM over the connections for the feed's bookkeeping.
func (s *Store) background(ctx context.Context) *gorm.DB {
	return s.engine.ORM(BackgroundPool).WithContext(ctx)
}

// LongestStale returns the greatest MaxStaleMs of all streams whose data planes serve a customer.
func (s *Store) LongestStale(ctx context.Context, customerID string) (int, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var longest int
	err := s.servedStreams(ctx, customerID).Select("COALESCE(MAX(streams.max_stale_ms), 0)").Scan(&longest).Error
	return longest, s.classify(err)
}

// servedStreams selects the streams whose data planes serve a customer. Ids need no escaping in JSON, so that a list of
// customers holds one if it holds its id in quotes.
func (s *Store) servedStreams(ctx context.Context, customerID string) *gorm.DB {
	return s.orm(ctx).Model(&Stream{}).Joins("JOIN data_planes d ON d.id = streams.data_plane_id").
		Where("(d.customers = 'null' OR REPLACE(d.customers, ?, '') <> d.customers)", `"`+customerID+`"`)
}

// CountStreams returns how many streams each data plane has, by its id. Data planes without streams are left out.
func (s *Store) CountStreams(ctx context.Context) (map[string]int, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var rows []struct {
		DataPlaneID string
		Streams     int
	}
	err := s.orm(ctx).Model(&Stream{}).Select("data_plane_id, count(*) AS streams").Group("data_plane_id").Find(&rows).Error
	counts := make(map[string]int, len(rows))
	for _, row := range rows {
		counts[row.DataPlaneID] = row.Streams
	}
	return counts, s.classify(err)
}

// ServingStreams is how many streams there are of the data planes that serve these customers; nil is all of them.
type ServingStreams struct {
	Customers []string `gorm:"serializer:json"`
	Streams   int
}

// CountServingStreams returns how many streams there are, by whom their data planes serve.
func (s *Store) CountServingStreams(ctx context.Context) ([]ServingStreams, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var counts []ServingStreams
	err := s.background(ctx).Model(&Stream{}).Joins("JOIN data_planes d ON d.id = streams.data_plane_id").
		Select("d.customers, count(*) AS streams").Group("d.customers").Find(&counts).Error
	return counts, s.classify(err)
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

// Replicas returns all replicas: those that have stored heartbeats, and with zero heartbeats those that only have streams.
func (s *Store) Replicas(ctx context.Context) ([]Replica, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all []Replica
	err := s.background(ctx).Raw(`SELECT id, MAX(beat) AS beat FROM (SELECT id, beat FROM replicas
UNION ALL SELECT DISTINCT replica_id, 0 FROM streams) AS known GROUP BY id ORDER BY id`).Scan(&all).Error
	return all, s.classify(err)
}

// DeleteDeadReplica deletes the streams of a replica whose last heartbeat was so long ago that leases of up to maxStaleMs have run
// out. It deletes the replica with the last of them. It does nothing if the replica has stored a heartbeat since r was read.
func (s *Store) DeleteDeadReplica(ctx context.Context, r Replica, maxStaleMs int) error {
	return s.transact(ctx, BackgroundPool, func(tx *Tx) error {
		// The write holds the row until the end, though there may be no row yet: a heartbeat comes before it, and then no row
		// matches, or after the deletion.
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

// Receipt is what the data planes at one replica have acknowledged of one stop.
type Receipt struct {
	// StopID is the Stop's ID.
	StopID    string `gorm:"primaryKey;column:key_id"`
	ReplicaID string `gorm:"primaryKey"`
	// DataPlanes is how many had to acknowledge it, Acknowledged how many have.
	DataPlanes   int
	Acknowledged int
	// SlowestUs is how long the slowest acknowledgement took, in microseconds.
	SlowestUs int64
	// Counted is how many of Acknowledged said how many requests were in flight when they dropped the key, InFlight what they add
	// up to.
	Counted  int
	InFlight int64
	// ByDataPlane has the same of data planes, of some where there are many.
	ByDataPlane []DataPlaneReceipt `gorm:"serializer:json"`
}

// DataPlaneReceipt is what the streams of one data plane have acknowledged of one stop.
type DataPlaneReceipt struct {
	Name string `json:"name"`
	// Streams is how many had to acknowledge it, and Expired how many had not when their leases ended. Releases before stored neither, nor
	// SlowestUs, which is zero if it is not known.
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

// Receipts returns the receipts of a stop. unheard has the names of the data planes of streams that may not have been told of it yet: they
// began before it, and are at replicas that have made no receipt.
func (s *Store) Receipts(ctx context.Context, stop Stop) (receipts []Receipt, unheard []string, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var open []struct{ ReplicaID, Position, Name string }
	err = s.servedStreams(ctx, stop.CustomerID).Select("streams.replica_id, streams.position, d.name").
		Where("streams.settled <= ? AND streams.replica_id NOT IN (SELECT replica_id FROM receipts WHERE key_id = ?)", stop.Tx, stop.ID()).
		Find(&open).Error
	// The streams first: a receipt that is made between the two reads accounts for them.
	if err == nil {
		err = s.orm(ctx).Where("key_id = ?", stop.ID()).Find(&receipts).Error
	}
	if err != nil {
		return nil, nil, s.classify(err)
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
