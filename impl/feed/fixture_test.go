package feed_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
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
	t      testing.TB
	engine modelstest.Engine
	url    string
	store  *models.Store // for writes; on SQLite, the replicas share it
	ids    models.IDs

	mu    sync.Mutex
	wakes map[*sharedStore]func() // of the SQLite replicas, as a store has one watcher
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
	url := modelstest.EngineSQLite.URL(t)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newEnv(t, modelstest.EngineSQLite, url)) })
}

// onPostgres runs a test on PostgreSQL, where each replica has a store of its own.
func onPostgres(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	test(t, newEnv(t, modelstest.EnginePostgres, modelstest.EnginePostgres.URL(t)))
}

func newEnv(t testing.TB, engine modelstest.Engine, url string) *env {
	t.Helper()
	e := &env{t: t, engine: engine, url: url, wakes: map[*sharedStore]func(){}}
	e.store = modelstest.OpenStore(t, url, models.Options{MaxConns: 12})
	_, err := e.store.Migrate(t.Context())
	require.NoError(t, err)
	e.transact(func(tx *models.Tx) error {
		if err := tx.EnsureProject(acme, "web"); err != nil {
			return err
		}
		_, err := tx.SetMember(acme, "web", "olga", models.RoleOwner)
		return err
	})
	e.background(func(ctx context.Context) error { return e.store.Watch(ctx, e.wakeReplicas) })
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

func (e *env) wakeReplicas() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, wake := range e.wakes {
		wake()
	}
}

// sharedStore is the store of a SQLite replica.
type sharedStore struct {
	*models.Store
	env *env
}

func (s *sharedStore) Watch(ctx context.Context, wake func()) error {
	s.env.mu.Lock()
	s.env.wakes[s] = wake
	s.env.mu.Unlock()
	<-ctx.Done()
	s.env.mu.Lock()
	defer s.env.mu.Unlock()
	delete(s.env.wakes, s)
	return nil
}

// options change a replica; the zero value is one as in production.
type options struct {
	lease, maintenance, grace, silence time.Duration
	store                              feed.Store
}

// hasty are the options of replicas that take each other for dead after a second.
var hasty = options{lease: 600 * time.Millisecond, maintenance: 50 * time.Millisecond, grace: 500 * time.Millisecond}

func orElse(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
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
	e.eventually("the replica reads", func() bool { return feed.Ready(r.Feed) })
	return r
}

func (e *env) replicas(n int, o options) []*replica {
	all := make([]*replica, n)
	for i := range all {
		all[i] = e.replica(o)
	}
	return all
}

// newStore returns what a replica gets unless it is given a store.
func (e *env) newStore() feed.Store {
	if e.engine == modelstest.EnginePostgres {
		return modelstest.OpenStore(e.t, e.url, models.Options{MaxConns: 8})
	}
	return &sharedStore{e.store, e}
}

func (e *env) start(o options) *replica {
	e.t.Helper()
	if o.store == nil {
		o.store = e.newStore()
	}
	f, err := feed.New(feed.Config{Store: o.store, Lease: o.lease})
	require.NoError(e.t, err)
	feed.Hasten(f, orElse(o.maintenance, time.Second), orElse(o.grace, 5*time.Second), orElse(o.silence, 30*time.Second))
	return &replica{Feed: f, env: e, stop: e.background(f.Run)}
}

// member is a data plane with its stream.
type member struct {
	*feedtest.Client
	models.DataPlane
}

// tryConnect opens a stream that is served without a network.
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

// connect opens a stream that must open, of a new data plane for all customers unless one is given.
func (r *replica) connect(sub feed.Subscription) *member {
	r.env.t.Helper()
	if sub.DataPlane.ID == "" {
		sub.DataPlane = r.env.dataPlane()
	}
	m, err := r.tryConnect(sub, nil)
	require.NoError(r.env.t, err)
	m.AwaitType("heartbeat")
	return m
}

// resumed is the subscription that carries a member's stream on.
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

// acknowledge acknowledges a key's revocation at a replica, once the data plane has been told of it.
func (m *member) acknowledge(k models.Key, at *replica) {
	at.env.t.Helper()
	at.acknowledgeAt(m, m.AwaitRevocation(k.ID).ID)
}

func (r *replica) acknowledgeAt(m *member, text string) {
	r.env.t.Helper()
	at, err := position.Parse(text)
	require.NoError(r.env.t, err)
	require.NoError(r.env.t, r.Acknowledge(r.env.t.Context(), m.ID, m.Session(), at))
}

func (r *replica) receipt(k models.Key) feed.Receipt {
	r.env.t.Helper()
	got, err := r.Receipt(r.env.t.Context(), k)
	require.NoError(r.env.t, err)
	return got
}

func (r *replica) waitForReceipt(k models.Key, wait time.Duration) feed.Receipt {
	r.env.t.Helper()
	got, err := r.WaitForReceipt(r.env.t.Context(), k, wait)
	require.NoError(r.env.t, err)
	return got
}

func (r *replica) requireComplete(k models.Key, acknowledged, dataPlanes int) {
	r.env.t.Helper()
	got := r.waitForReceipt(k, feedtest.Patience)
	require.True(r.env.t, got.Complete)
	require.Zero(r.env.t, got.Remaining)
	require.Equal(r.env.t, []int{acknowledged, dataPlanes}, []int{got.Acknowledged, got.DataPlanes})
}

func (e *env) transact(fn func(tx *models.Tx) error) {
	e.t.Helper()
	require.NoError(e.t, e.store.Transact(context.Background(), fn))
}

func (e *env) eventually(what string, is func() bool) {
	e.t.Helper()
	for deadline := time.Now().Add(feedtest.Patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(e.t, "it never came to be", what)
		}
	}
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

// change commits an event of a customer that is about a new key, whose id it returns.
func (e *env) change(customer string) (key string, err error) {
	key = e.ids.Next(models.KeyIDPrefix, time.Now())
	return key, e.store.Transact(context.Background(), func(tx *models.Tx) error {
		return tx.AppendEvent(e.event(models.EventKeyRegistered, customer, key))
	})
}

// flood commits n events at once, past the stores, and returns the key of the last.
func (e *env) flood(n int) (last string) {
	e.t.Helper()
	tx, prefix := "(SELECT COALESCE(MAX(tx), 0) FROM events) + i", e.ids.Next("", time.Now())
	if e.engine == modelstest.EnginePostgres {
		tx = "pg_current_xact_id()::text::bigint"
	}
	e.execute(fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
INSERT INTO events (tx, customer_id, project_id, scope_user_id, id, type, outcome, at, actor_user_id, actor_method, actor_token_id,
key_id, token_id, provider, member_id, role, source_ip, request_id)
SELECT %s, '%s', 'web', '', '%s-' || i, 'key.registered', 'allowed', 1, 'olga', '', '', '%s-' || i, '', 'openai', '', '', '', '' FROM n`,
		n, tx, acme, prefix, prefix))
	e.store.Wake()
	return fmt.Sprintf("%s-%d", prefix, n)
}

// key registers a key of acme's project.
func (e *env) key() models.Key {
	e.t.Helper()
	caller := models.Caller{CustomerID: acme, ProjectID: "web", UserID: "olga"}
	id := e.ids.Next(models.KeyIDPrefix, time.Now())
	k, err := e.store.RegisterKey(context.Background(), caller, models.RoleOwner, models.Registration{
		Key: models.Key{
			ID: id, CustomerID: acme, ProjectID: "web", Provider: "openai", Name: id, DisplaySuffix: "wxyz", Version: 1,
			Envelope: []byte("sealed"), KEKID: "kek", CreatedAt: time.Now().UnixMicro(), CreatedBy: "olga",
		},
		Event: e.event(models.EventKeyRegistered, acme, id),
	}, time.Now().UnixMicro())
	require.NoError(e.t, err)
	return k
}

// revoke revokes a new key and returns it.
func (e *env) revoke() models.Key {
	e.t.Helper()
	k := e.key()
	e.revokeKey(&k, e.store)
	return k
}

func (e *env) revokeKey(k *models.Key, by *models.Store) {
	e.t.Helper()
	require.NoError(e.t, by.Transact(context.Background(), func(tx *models.Tx) error {
		_, err := tx.RevokeKey(k, "olga", e.event(models.EventKeyRevoked, acme, k.ID))
		return err
	}))
}

// execute runs a statement past the stores.
func (e *env) execute(statement string) {
	e.t.Helper()
	_, err := feedtest.Open(e.t, e.url).ExecContext(context.Background(), statement)
	require.NoError(e.t, err)
}

// isAbout and isType select messages.
func isAbout(key string) func(feedtest.Message) bool {
	return func(m feedtest.Message) bool { return m.KeyID != nil && *m.KeyID == key }
}

func isType(kind string) func(feedtest.Message) bool {
	return func(m feedtest.Message) bool { return m.Type == kind }
}
