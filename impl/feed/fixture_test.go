package feed_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const acme = "acme"

var olga = models.Caller{CustomerID: acme, ProjectID: "web", UserID: "olga"}

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "8"); err != nil { // most tests wait for most of their time
		panic(err)
	}
	code := modelstest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "every feed has stopped, but:", err)
		code = 1
	}
	os.Exit(code)
}

// env is a database and the replicas that serve streams from it.
type env struct {
	t     testing.TB
	url   string
	store *models.Store // for writes; on SQLite, the replicas share it
	ids   models.IDs
	wakes sync.Map // the functions that wake SQLite's replicas, by their address, as a store has one watcher

	newStore func() feed.Store // for a replica
}

// each runs a test on every engine.
func each(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { onSQLite(t, test) })
	t.Run("postgres", func(t *testing.T) { onPostgres(t, test) })
}

// onSQLite runs a test on SQLite, by a clock of its own: time passes only while everything waits, and waiting takes none.
func onSQLite(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	url := modelstest.EngineSQLite.MigratedURL(t)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newSQLiteEnv(t, url)) })
}

func newSQLiteEnv(t testing.TB, url string) *env {
	t.Helper()
	e := newEnv(t, url)
	e.newStore = func() feed.Store {
		return watchedStore{e.store, func(ctx context.Context, wake func()) error {
			e.wakes.Store(&wake, wake)
			<-ctx.Done()
			e.wakes.Delete(&wake)
			return nil
		}}
	}
	return e
}

// onPostgres runs a test on PostgreSQL, where each replica has a store of its own.
func onPostgres(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	e := newEnv(t, modelstest.EnginePostgres.MigratedURL(t))
	e.newStore = func() feed.Store { return modelstest.OpenStore(t, e.url, models.Options{MaxConns: 8}) }
	test(t, e)
}

func newEnv(t testing.TB, url string) *env {
	t.Helper()
	e := &env{t: t, url: url, store: modelstest.OpenStore(t, url, models.Options{MaxConns: 12})}
	require.NoError(t, e.store.Transact(t.Context(), func(tx *models.Tx) error {
		if err := tx.EnsureProject(acme, "web"); err != nil {
			return err
		}
		_, err := tx.SetMember(acme, "web", "olga", models.RoleOwner)
		return err
	}))
	e.background(func(ctx context.Context) error {
		return e.store.Watch(ctx, func() {
			e.wakes.Range(func(_, value any) bool {
				wake, ok := value.(func())
				wake()
				return ok
			})
		})
	})
	return e
}

// background runs something until stop is called or the test ends.
func (e *env) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(e.t, <-done)
	})
	e.t.Cleanup(stop)
	return stop
}

func (e *env) eventually(what string, is func() bool) {
	e.t.Helper()
	require.Eventually(e.t, is, feedtest.Patience, 5*time.Millisecond, what)
}

// watchedStore is a store with another Watch.
type watchedStore struct {
	feed.Store
	watch func(ctx context.Context, wake func()) error
}

func (s watchedStore) Watch(ctx context.Context, wake func()) error { return s.watch(ctx, wake) }

// watchNothing is a Watch that wakes no replica.
func watchNothing(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// faultyStore is a store whose reads fail while down is set, and one of whose methods does not return while blocks is set.
type faultyStore struct {
	feed.Store
	down, blocks atomic.Bool
	method       string
}

func (s *faultyStore) wait(ctx context.Context, method string) error {
	for method == s.method && s.blocks.Load() && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	return ctx.Err()
}

func (s *faultyStore) Position(ctx context.Context) (position.Position, error) {
	if s.down.Load() {
		return position.Position{}, models.ErrUnavailable
	}
	return s.Store.Position(ctx)
}

func (s *faultyStore) Changes(ctx context.Context, since position.Position, limit int) ([]models.Change, position.Position, error) {
	if s.down.Load() {
		return nil, position.Position{}, models.ErrUnavailable
	}
	return s.Store.Changes(ctx, since, limit)
}

func (s *faultyStore) TakeForwarded(ctx context.Context, _ string) ([]models.Stream, error) {
	return nil, s.wait(ctx, "TakeForwarded")
}

func (s *faultyStore) SaveReceipts(ctx context.Context, receipts []models.Receipt) error {
	return errors.Join(s.wait(ctx, "SaveReceipts"), s.Store.SaveReceipts(ctx, receipts))
}

func (s *faultyStore) LiveDataPlanes(ctx context.Context, ids []string, _ int64) ([]string, error) {
	return ids, s.wait(ctx, "LiveDataPlanes")
}

func (s *faultyStore) RecordHeartbeat(ctx context.Context, replicaID string) error {
	return errors.Join(s.wait(ctx, "RecordHeartbeat"), s.Store.RecordHeartbeat(ctx, replicaID))
}

// options change a replica; the zero value is one as in production.
type options struct {
	lease  time.Duration
	timing feed.Timing
	store  feed.Store
}

// replica is a feed that runs.
type replica struct {
	*feed.Feed
	env  *env
	stop func()
}

// replica starts one and waits until it has read from the database.
func (e *env) replica(o options) *replica {
	e.t.Helper()
	r := e.start(o)
	e.eventually("the replica reads", func() bool { return feed.Holds(r.Feed, 0) })
	return r
}

func (e *env) start(o options) *replica {
	e.t.Helper()
	if o.store == nil {
		o.store = e.newStore()
	}
	f, err := feed.New(feed.Config{Store: o.store, Lease: o.lease})
	require.NoError(e.t, err)
	feed.Hasten(f, o.timing)
	return &replica{Feed: f, env: e, stop: e.background(f.Run)}
}

// member is a data plane with its stream.
type member struct {
	*feedtest.Client
	models.DataPlane
}

// tryConnect opens a stream that is served without a network. onMessage may be nil.
func (r *replica) tryConnect(sub feed.Subscription, onMessage func(feedtest.Message)) (*member, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := feedtest.NewClient(r.env.t, cancel)
	c.OnMessage = onMessage
	s, err := r.Subscribe(ctx, sub)
	if err != nil {
		cancel()
		return nil, err
	}
	go func() { c.End(s.Serve(ctx, c)) }()
	r.env.t.Cleanup(c.Leave)
	return &member{c, sub.DataPlane}, nil
}

// connect opens a stream of a new data plane for all customers, or of one that serves some.
func (r *replica) connect(customers ...string) *member {
	r.env.t.Helper()
	return r.subscribe(feed.Subscription{DataPlane: r.env.dataPlane(customers...)})
}

// subscribe opens a stream that must open.
func (r *replica) subscribe(sub feed.Subscription) *member {
	r.env.t.Helper()
	m, err := r.tryConnect(sub, nil)
	require.NoError(r.env.t, err)
	m.AwaitType("heartbeat")
	return m
}

// resumed is the subscription that continues a member's stream.
func (m *member) resumed() feed.Subscription {
	sub := feed.Subscription{DataPlane: m.DataPlane}
	if all := m.All(); len(all) > 0 {
		sub.Previous = *all[0].SessionID
	}
	if at, err := position.Parse(m.Last()); err == nil {
		sub.Resume = &at
	}
	return sub
}

// types returns the types of the messages that have arrived.
func (m *member) types() (types []string) {
	for _, got := range m.All() {
		types = append(types, got.Type)
	}
	return types
}

// heartbeats returns the heartbeats that have arrived.
func (m *member) heartbeats() []feedtest.Message {
	return slices.DeleteFunc(m.All(), func(got feedtest.Message) bool { return got.Type != "heartbeat" })
}

// acknowledge acknowledges a key's revocation at a replica, once the data plane has been told of it. With a number it says how many
// requests were in flight.
func (m *member) acknowledge(k models.Key, at *replica, inFlight ...int) {
	at.env.t.Helper()
	counts := map[string]int{}
	for _, n := range inFlight {
		counts[k.ID] = n
	}
	at.acknowledge(m, m.AwaitRevocation(k.ID).ID, counts)
}

func (r *replica) acknowledge(m *member, text string, inFlight map[string]int) {
	r.env.t.Helper()
	at, err := position.Parse(text)
	require.NoError(r.env.t, err)
	require.NoError(r.env.t, r.Acknowledge(r.env.t.Context(), m.ID, m.Session(), at, inFlight))
}

// receipt returns a receipt once it is complete, or as it is after the time to wait.
func (r *replica) receipt(k models.Key, wait time.Duration) feed.Receipt {
	r.env.t.Helper()
	got, err := r.WaitForReceipt(r.env.t.Context(), k.Stop(), wait)
	require.NoError(r.env.t, err)
	return got
}

func (r *replica) requireComplete(k models.Key, acknowledged, dataPlanes int) {
	r.env.t.Helper()
	got := r.receipt(k, feedtest.Patience)
	got.Slowest, got.ByDataPlane, got.Planes = 0, nil, nil
	require.Equal(r.env.t, feed.Receipt{Complete: true, Acknowledged: acknowledged, DataPlanes: dataPlanes}, got)
}

// dataPlane stores a data plane that serves these customers, or all of them if none is given.
func (e *env) dataPlane(customers ...string) models.DataPlane {
	e.t.Helper()
	id := e.ids.Next("", time.Now())
	return feedtest.StoreDataPlane(e.t, e.store, models.DataPlane{ID: id, Name: id, Hash: []byte("hash"), Customers: customers})
}

func (e *env) event(kind models.EventType, customer, key string) models.Event {
	return models.Event{
		CustomerID: customer, ProjectID: "web", ID: e.ids.Next(models.EventIDPrefix, time.Now()), Type: kind,
		Outcome: models.OutcomeAllowed, At: time.Now().UnixMicro(), ActorUserID: "olga", KeyID: key, Provider: "openai",
	}
}

// change commits n events of a customer, each about a new key, and returns the last key's id.
func (e *env) change(customer string, n int) (key string) {
	e.t.Helper()
	require.NoError(e.t, e.store.Transact(context.Background(), func(tx *models.Tx) error {
		var err error
		for range n {
			key = e.ids.Next(models.KeyIDPrefix, time.Now())
			err = errors.Join(err, tx.AppendEvent(e.event(models.EventKeyRegistered, customer, key)))
		}
		return err
	}))
	return key
}

// key registers a key of acme's project.
func (e *env) key() models.Key {
	e.t.Helper()
	id := e.ids.Next(models.KeyIDPrefix, time.Now())
	k, err := e.store.RegisterKey(context.Background(), olga, models.RoleOwner, models.Registration{
		Key: models.Key{
			ID: id, CustomerID: acme, ProjectID: "web", Provider: "openai", Name: id, DisplaySuffix: "wxyz", Version: 1,
			Envelope: []byte("sealed"), KEKID: "kek", CreatedAt: time.Now().UnixMicro(), CreatedBy: "olga",
		},
		Event: e.event(models.EventKeyRegistered, acme, id),
	}, time.Now().UnixMicro())
	require.NoError(e.t, err)
	return k
}

// revoke revokes a key, or a new one, and returns it.
func (e *env) revoke(keys ...models.Key) models.Key {
	e.t.Helper()
	if len(keys) == 0 {
		keys = append(keys, e.key())
	}
	require.NoError(e.t, e.store.Transact(context.Background(), func(tx *models.Tx) error {
		_, err := tx.RevokeKey(&keys[0], "olga", e.event(models.EventKeyRevoked, acme, keys[0].ID))
		return err
	}))
	return keys[0]
}

// execute runs a statement past the stores.
func (e *env) execute(statement string) {
	e.t.Helper()
	_, err := feedtest.Open(e.t, modelstest.AsOwner(e.t, e.url)).ExecContext(context.Background(), statement)
	require.NoError(e.t, err)
}

// isAbout selects the messages about a key.
func isAbout(key string) func(feedtest.Message) bool {
	return func(m feedtest.Message) bool { return m.KeyID != nil && *m.KeyID == key }
}
