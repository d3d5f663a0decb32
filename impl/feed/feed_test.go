package feed

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const acme = "acme"

var olga = models.Caller{CustomerID: acme, ProjectID: "web", UserID: "olga"}

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // most tests mainly wait
	modelstest.Main(m)
}

// env is a database and the replicas that serve streams from it.
type env struct {
	t        testing.TB
	url      string
	store    *models.Store // for writes; on SQLite, the replicas share it
	ids      models.IDs
	wakes    sync.Map     // the functions that wake SQLite's replicas, by their address, as a store has one watcher
	newStore func() Store // for a replica
}

// each runs a test on every engine.
func each(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { onSQLite(t, test) })
	t.Run("postgres", func(t *testing.T) { onPostgres(t, test) })
}

// onSQLite runs a test on SQLite, in a synctest bubble: its clock advances only while everything waits, so waiting
// takes no real time.
func onSQLite(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	url := modelstest.EngineSQLite.MigratedURL(t)
	synctest.Test(t, func(t *testing.T) { test(t, newEnv(t, url)) })
}

// onPostgres runs a test on PostgreSQL, where each replica has a store of its own.
func onPostgres(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	e := newEnv(t, modelstest.EnginePostgres.MigratedURL(t))
	e.newStore = func() Store { return modelstest.OpenStore(t, e.url, models.Options{MaxConns: 8}) }
	test(t, e)
}

func newEnv(t testing.TB, url string) *env {
	t.Helper()
	e := &env{t: t, url: url, store: modelstest.OpenStore(t, url, models.Options{MaxConns: 12})}
	e.newStore = func() Store { return sharedStore{e.store, e} }
	modelstest.SetMember(t, e.store, olga, models.RoleOwner)
	feedtest.Run(t, func(ctx context.Context) error {
		return e.store.Watch(ctx, func() {
			e.wakes.Range(func(wake, _ any) bool { (*wake.(*func()))(); return true }) //nolint:forcetypeassert // there is no other
		})
	})
	return e
}

// sharedStore is a store with one watcher for several replicas.
type sharedStore struct {
	*models.Store
	env *env
}

func (s sharedStore) Watch(ctx context.Context, wake func()) error {
	s.env.wakes.Store(&wake, true)
	defer s.env.wakes.Delete(&wake)
	<-ctx.Done()
	return nil
}

func (e *env) eventually(what string, is func() bool) {
	e.t.Helper()
	require.Eventually(e.t, is, feedtest.Patience, 5*time.Millisecond, what)
}

// hookedStore is a store. Some of its methods first call enter with their name, and use the context that enter returns.
type hookedStore struct {
	Store
	enter func(ctx context.Context, method string) context.Context
}

func (s hookedStore) Watch(ctx context.Context, wake func()) error {
	return s.Store.Watch(s.enter(ctx, "Watch"), wake)
}

func (s hookedStore) Position(ctx context.Context) (position.Position, error) {
	return s.Store.Position(s.enter(ctx, "Position"))
}

func (s hookedStore) Changes(ctx context.Context, since position.Position, limit int) ([]models.Change, position.Position, error) {
	return s.Store.Changes(s.enter(ctx, "Changes"), since, limit)
}

func (s hookedStore) TakeForwarded(ctx context.Context, replicaID string) ([]models.Stream, error) {
	return s.Store.TakeForwarded(s.enter(ctx, "TakeForwarded"), replicaID)
}

func (s hookedStore) SaveReceipts(ctx context.Context, receipts []models.Receipt) error {
	return s.Store.SaveReceipts(s.enter(ctx, "SaveReceipts"), receipts)
}

func (s hookedStore) LiveDataPlanes(ctx context.Context, ids []string, now int64) ([]string, error) {
	return s.Store.LiveDataPlanes(s.enter(ctx, "LiveDataPlanes"), ids, now)
}

func (s hookedStore) RecordHeartbeat(ctx context.Context, replicaID string) error {
	return s.Store.RecordHeartbeat(s.enter(ctx, "RecordHeartbeat"), replicaID)
}

func (s hookedStore) Receipts(ctx context.Context, stop models.Stop) ([]models.Receipt, []string, error) {
	return s.Store.Receipts(s.enter(ctx, "Receipts"), stop)
}

// faultyStore returns an option that gives a replica a faulty store, and the switch that turns the faults on. While the
// switch is on, the named methods block, except that Position and Changes fail.
func (e *env) faultyStore(methods ...string) (withFaults func(*Feed), isFaulty *atomic.Bool) {
	isFaulty = &atomic.Bool{}
	return withStore(hookedStore{e.newStore(), func(ctx context.Context, method string) context.Context {
		ended, end := context.WithCancel(ctx)
		end()
		for isFaulty.Load() && slices.Contains(methods, method) && ctx.Err() == nil {
			if method == "Position" || method == "Changes" {
				return ended
			}
			time.Sleep(10 * time.Millisecond)
		}
		return ctx
	}}), isFaulty
}

func withStore(s Store) func(*Feed) { return func(f *Feed) { f.store = s } }

func withLease(d time.Duration) func(*Feed) { return func(f *Feed) { f.params.lease = d } }

// replica is a feed that runs.
type replica struct {
	*Feed
	env  *env
	stop func()
}

// replica starts a replica and waits until it has read from the database.
func (e *env) replica(changes ...func(*Feed)) *replica {
	e.t.Helper()
	r := e.start(changes...)
	e.eventually("the replica reads", func() bool { return r.holds(0) })
	return r
}

func (e *env) start(changes ...func(*Feed)) *replica {
	e.t.Helper()
	f, err := New(Config{Store: e.newStore()})
	require.NoError(e.t, err)
	for _, change := range changes {
		change(f)
	}
	return &replica{Feed: f, env: e, stop: feedtest.Run(e.t, f.Run)}
}

// holds reports whether streams can join the feed, and whether it has read the transaction.
func (r *replica) holds(tx int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready && r.serving != nil && r.position.Contains(tx)
}

func (r *replica) openStreams() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// member is a data plane with its stream.
type member struct {
	*feedtest.Client
	models.DataPlane
}

// tryConnect opens a stream that is served without a network. onMessage may be nil.
func (r *replica) tryConnect(sub Subscription, onMessage func(feedtest.Message)) (*member, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := feedtest.NewClient(r.env.t, cancel)
	c.OnMessage, sub.Arrived = onMessage, time.Now()
	s, err := r.Subscribe(ctx, sub)
	if err != nil {
		cancel()
		return nil, err
	}
	go func() { c.End(s.Serve(ctx, c)) }()
	r.env.t.Cleanup(c.Leave)
	return &member{c, sub.DataPlane}, nil
}

// connect opens a stream of a new data plane, which serves these customers, or all of them if none is given.
func (r *replica) connect(customers ...string) *member {
	r.env.t.Helper()
	return r.subscribe(Subscription{DataPlane: r.env.dataPlane(customers...)})
}

// subscribe opens a stream, and requires success.
func (r *replica) subscribe(sub Subscription) *member {
	r.env.t.Helper()
	m, err := r.tryConnect(sub, nil)
	require.NoError(r.env.t, err)
	m.AwaitType("heartbeat")
	return m
}

// resumed is the subscription that continues a member's stream.
func (m *member) resumed() Subscription {
	sub := Subscription{DataPlane: m.DataPlane}
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

// acknowledge acknowledges a key's revocation at a replica, once the data plane has read it. If inFlight is given, the
// acknowledgement says how many requests were in flight.
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

// receipt returns a receipt once it is complete, or after the time to wait.
func (r *replica) receipt(k models.Key, wait time.Duration) Receipt {
	r.env.t.Helper()
	got, err := r.WaitForReceipt(r.env.t.Context(), k.Stop(), wait)
	require.NoError(r.env.t, err)
	return got
}

func (r *replica) requireComplete(k models.Key, acknowledged, dataPlanes int) {
	r.env.t.Helper()
	got := r.receipt(k, feedtest.Patience)
	got.Slowest, got.ByDataPlane, got.Planes = 0, nil, nil
	require.Equal(r.env.t, Receipt{Complete: true, Acknowledged: acknowledged, DataPlanes: dataPlanes}, got)
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
	require.NoError(e.t, e.store.Transact(context.Background(), func(tx *models.Tx) (err error) {
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

// execute runs a statement that bypasses the stores.
func (e *env) execute(statement string) {
	e.t.Helper()
	_, err := modelstest.Open(e.t, modelstest.AsOwner(e.t, e.url)).ExecContext(context.Background(), statement)
	require.NoError(e.t, err)
}

// isAbout returns a function that reports whether a message is about a key.
func isAbout(key string) func(feedtest.Message) bool {
	return func(m feedtest.Message) bool { return m.KeyID != nil && *m.KeyID == key }
}

// Guarantee 1: data planes that reconnect at random, to any replica, get every change of their customers, although
// transactions commit out of order. They get no other customer's changes.
func TestNoGap(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		replicas := []*replica{e.replica(), e.replica(), e.replica()}
		customers := []string{"customer-a", "customer-b", "customer-c"}
		serves := [][]string{nil, nil, {"customer-a"}, {"customer-b", "customer-c"}, {"customer-c"}}
		finish := make(chan struct{})
		var end position.Position // set before finish is closed
		var following, writing sync.WaitGroup
		told, raw := make([]map[string]bool, len(serves)), make([]string, len(serves))
		for i, s := range serves {
			told[i] = map[string]bool{}
			first := replicas[i%3].subscribe(Subscription{DataPlane: e.dataPlane(s...)})
			first.Leave()
			following.Go(func() {
				for m, done := first, false; !done; {
					select {
					case <-finish:
						done = true
					default:
					}
					next, err := replicas[rand.IntN(3)].tryConnect(m.resumed(), nil)
					if err != nil {
						t.Errorf("resume: %v", err)
						return
					}
					m = next
					if done {
						m.Await("the rest", func(got feedtest.Message) bool {
							at, err := position.Parse(got.ID)
							return got.Type == "heartbeat" && err == nil && at.Xmax >= end.Xmax && len(at.Open) == 0
						})
					} else {
						m.AwaitType("heartbeat")
						time.Sleep(rand.N(40 * time.Millisecond)) // leaves at a random time
					}
					m.Leave()
					for _, got := range m.All() {
						raw[i] += string(got.Data)
						if got.KeyID != nil {
							told[i][*got.KeyID] = true
						}
						if got.Type == "reset" {
							t.Error("a reset, although little was missed")
						}
					}
				}
			})
		}
		var mu sync.Mutex
		written := map[string][]string{}
		for range 8 {
			writing.Go(func() {
				for range 25 {
					customer := customers[rand.IntN(len(customers))]
					key := e.ids.Next(models.KeyIDPrefix, time.Now())
					if err := e.store.Transact(t.Context(), func(tx *models.Tx) error {
						err := tx.AppendEvent(e.event(models.EventKeyRegistered, customer, key))
						time.Sleep(rand.N(5 * time.Millisecond)) // so that commits overlap
						return err
					}); err != nil {
						t.Errorf("write: %v", err)
					}
					mu.Lock()
					written[customer] = append(written[customer], key)
					mu.Unlock()
				}
			})
		}
		writing.Wait()
		var err error
		end, err = e.store.Position(t.Context())
		require.NoError(t, err)
		close(finish)
		following.Wait()
		for i, s := range serves {
			for customer, keys := range written {
				served := s == nil || slices.Contains(s, customer)
				if !served {
					require.NotContains(t, raw[i], customer)
				}
				for _, key := range keys {
					require.Equal(t, served, told[i][key], "%s, to a data plane of %v", customer, s)
				}
			}
		}
	})
}

// Guarantee 2: a transaction that stays open delays no other change, and data planes that resume while it is open get
// its change too. Only PostgreSQL has several writers at a time.
func TestNoDelay(t *testing.T) {
	onPostgres(t, func(t *testing.T, e *env) {
		replicas := []*replica{e.replica(), e.replica()}
		slow := modelstest.OpenStore(t, e.url, models.Options{Timeout: time.Minute})
		opened, release, closed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		late := e.ids.Next(models.KeyIDPrefix, time.Now())
		go func() {
			closed <- slow.Transact(t.Context(), func(tx *models.Tx) error {
				err := tx.AppendEvent(e.event(models.EventKeyRegistered, acme, late))
				close(opened)
				<-release
				return err
			})
		}()
		<-opened
		steady := replicas[0].connect()
		for range 5 {
			steady.AwaitRevocation(e.revoke().ID)
		}
		resumed := replicas[1].subscribe(steady.resumed())
		resumed.AwaitRevocation(e.revoke().ID)
		resumed.Leave()
		close(release)
		require.NoError(t, <-closed)
		again := replicas[0].subscribe(resumed.resumed())
		again.Await("the change that was open when the position was taken", isAbout(late))
		require.False(t, slices.Contains(again.types(), "reset"))
	})
}

// Guarantee 2 again: while every connection that requests can take is taken, heartbeats and changes are sent.
func TestNoDelayByBusyRequestPool(t *testing.T) {
	onPostgres(t, func(t *testing.T, e *env) {
		const conns = 4
		store := modelstest.OpenStore(t, e.url, models.Options{MaxConns: conns})
		const lease, grace = 3 * time.Second, 1500 * time.Millisecond
		r := e.replica(withStore(store), func(f *Feed) {
			f.params.lease, f.params.maintenance, f.params.replicaGrace = lease, 200*time.Millisecond, grace
		})
		m := r.connect()

		blocker, err := pgx.Connect(t.Context(), e.url)
		require.NoError(t, err)
		defer func() { _ = blocker.Close(context.Background()) }()
		_, err = blocker.Exec(t.Context(), "BEGIN; LOCK TABLE ai_keys IN ACCESS EXCLUSIVE MODE")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		defer callers.Wait()
		defer cancel()
		for range 3 * conns {
			callers.Go(func() {
				for ctx.Err() == nil {
					_, _ = store.ListKeys(ctx, olga, models.KeyFilter{}, time.Now().UnixMicro())
				}
			})
		}
		e.eventually("the request pool is full", func() bool {
			var waiting int
			require.NoError(t, blocker.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'ai_keys'::regclass`).
				Scan(&waiting))
			return waiting >= conns
		})
		full := time.Now()
		last := m.Await("a heartbeat, long after the pool was full", func(got feedtest.Message) bool {
			return got.Type == "heartbeat" && m.When(*got.ClockMs).After(full.Add(2*grace))
		})
		var previous time.Time
		for _, got := range m.All() {
			if got.Type != "heartbeat" || got.At.After(last.At) {
				continue
			}
			if !previous.IsZero() {
				require.Less(t, got.At.Sub(previous), lease, "every heartbeat comes before the lease of the last one ends")
			}
			previous = got.At
		}
		key := e.change(acme, 1)
		m.Await("a change", isAbout(key))
	})
}

func TestBlockedDutyDelaysNoOther(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"TakeForwarded", "SaveReceipts", "LiveDataPlanes", "RecordHeartbeat"} {
		t.Run(method, func(t *testing.T) {
			onSQLite(t, func(t *testing.T, e *env) {
				withFaults, isFaulty := e.faultyStore(method)
				r := e.replica(withFaults, func(f *Feed) {
					if method == "RecordHeartbeat" {
						f.params.replicaGrace = time.Minute // leases do not depend on it for so long
					}
				})
				m := r.connect()
				isFaulty.Store(true)
				k := e.revoke()
				m.acknowledge(k, r)
				got := r.receipt(k, 10*time.Second)
				require.True(t, got.Complete)
				if method != "SaveReceipts" {
					require.Equal(t, 1, got.Acknowledged, "a receipt is stored, and complete before the lease has run out")
				}
				time.Sleep(10 * time.Second)
				beats := m.heartbeats()
				require.GreaterOrEqual(t, len(beats), 25)
				for i := range beats[1:] {
					require.LessOrEqual(t, beats[i+1].At.Sub(beats[i].At), 400*time.Millisecond)
				}
			})
		})
	}
}

// Guarantee 4, the control plane's half: a heartbeat that arrives before a revocation carries a time before the
// revocation. So the lease that it extends ends at most one lease length after the revocation.
func TestBoundedStaleness(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		m := e.replica().connect()
		for range 30 {
			k := e.revoke()
			committed := time.Now()
			m.AwaitRevocation(k.ID)
			for _, got := range m.All() {
				if isAbout(k.ID)(got) && got.Type == "key.revoked" {
					break
				}
				if got.Type == "heartbeat" {
					require.False(t, m.When(*got.ClockMs).After(committed))
				}
			}
		}
	})
}

func TestHeartbeatInterval(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		m := r.connect("nobody")
		gaps := func() (all []time.Duration) {
			beats := m.heartbeats()
			for i := range beats[1:] {
				all = append(all, time.Duration(*beats[i+1].ClockMs-*beats[i].ClockMs)*time.Millisecond)
			}
			return all
		}
		time.Sleep(2 * time.Second)
		idle := gaps()
		require.Len(t, idle, 5)
		for _, gap := range idle[1:] {
			require.Equal(t, 400*time.Millisecond, gap, "a lease lasts for two and a half")
		}
		time.Sleep(270 * time.Millisecond)
		e.change("nobody", 1) // this brings a heartbeat; the next one comes an interval later
		time.Sleep(time.Second)
		require.InDelta(t, 270, gaps()[5].Milliseconds(), 5)
		require.InDelta(t, 400, gaps()[6].Milliseconds(), 5)
	})
}

func TestNoHeartbeatWithoutDatabase(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		withFaults, isFaulty := e.faultyStore("Position", "Changes")
		isFaulty.Store(true)
		r := e.start(withFaults)
		time.Sleep(10 * time.Second)
		_, err := r.Subscribe(t.Context(), Subscription{DataPlane: e.dataPlane()})
		require.ErrorIs(t, err, models.ErrUnavailable)

		isFaulty.Store(false)
		e.eventually("it reads", func() bool { return r.holds(0) })
		m := r.connect()
		isFaulty.Store(true)
		synctest.Wait()
		before := len(m.heartbeats())
		time.Sleep(10 * time.Second)
		require.Len(t, m.heartbeats(), before)

		isFaulty.Store(false)
		k := e.revoke()
		m.AwaitRevocation(k.ID)
	})
}

// With this lease, the replica reads only every 24 minutes, unless it is woken.
func TestReplicasWakeOneAnother(t *testing.T) {
	onPostgres(t, func(t *testing.T, e *env) {
		m := e.replica(withLease(time.Hour)).connect()
		m.AwaitRevocation(e.revoke().ID)
	})
}

func TestPollingReplacesLostWakeUps(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		withFaults, isFaulty := e.faultyStore("Watch")
		isFaulty.Store(true)
		m := e.replica(withFaults).connect()
		for range 4 {
			k := e.revoke()
			committed := time.Now()
			require.LessOrEqual(t, m.AwaitRevocation(k.ID).At.Sub(committed), 400*time.Millisecond)
		}
	})
}

func TestTooManyChangesResetStreams(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		require.Equal(t, 5_000, production.maxChanges)
		m := e.replica(func(f *Feed) { f.params.maxChanges = 50 }).connect()
		e.change(acme, 50)
		m.AwaitType("reset")
		m.AwaitRevocation(e.revoke().ID)
	})
}

func TestRestoredDatabaseEndsStreams(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		r := e.replica()
		before, err := e.store.Position(t.Context())
		require.NoError(t, err)
		m := r.connect()
		m.AwaitRevocation(e.revoke().ID)
		e.execute("DELETE FROM events WHERE tx >= " + fmt.Sprint(before.Xmax))
		e.execute("DELETE FROM streams")
		reset := m.AwaitType("reset")
		require.NoError(t, m.AwaitEnd())
		last := m.All()[len(m.All())-1]
		require.Equal(t, "heartbeat", last.Type, "it says where to resume")
		require.Zero(t, *last.ClockMs, "and extends no lease")
		require.NotEqual(t, reset.ID, last.ID)
		again := r.subscribe(m.resumed())
		require.False(t, slices.Contains(again.types(), "reset"))
		again.AwaitRevocation(e.revoke().ID)
	})
}

func TestRunEndsAllStreams(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		all := []*member{r.connect(), r.connect(), r.connect()}
		began := time.Now()
		r.stop()
		synctest.Wait()
		require.Zero(t, time.Since(began))
		for _, m := range all {
			require.True(t, m.Ended())
			require.NoError(t, m.AwaitEnd())
		}
		_, err := r.Subscribe(t.Context(), Subscription{DataPlane: e.dataPlane()})
		require.ErrorIs(t, err, models.ErrUnavailable)
	})
}

func TestMetricsRegisterOnce(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	_, err := New(Config{Metrics: registry})
	require.NoError(t, err)
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 2, "gauges; counters come with what they count")
	_, err = New(Config{Metrics: registry})
	require.Error(t, err)
}

func TestRevokedDataPlanesLoseTheirStreams(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		revoked, expired, fine := r.connect(), r.connect(), r.connect()
		began := time.Now()
		require.NoError(t, e.store.Transact(t.Context(), func(tx *models.Tx) error {
			_, err := tx.RevokeDataPlane(revoked.Name, "")
			return err
		}))
		e.execute("UPDATE data_planes SET expires_at = 1 WHERE id = '" + expired.ID + "'")
		require.NoError(t, revoked.AwaitEnd())
		require.NoError(t, expired.AwaitEnd())
		require.LessOrEqual(t, time.Since(began), time.Second)
		fine.AwaitRevocation(e.revoke().ID)
	})
}

func TestSilentStreamsEnd(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		require.Equal(t, 30*time.Second, production.silence)
		r := e.replica(func(f *Feed) { f.params.silence = 6 * time.Second })
		silent, heard := r.connect(), r.connect()
		for range 5 {
			require.False(t, silent.Ended())
			time.Sleep(time.Second)
			r.acknowledge(heard, heard.Last(), nil)
		}
		time.Sleep(2 * time.Second)
		require.True(t, silent.Ended())
		require.NoError(t, silent.AwaitEnd())
		require.False(t, heard.Ended())
	})
}

func (e *env) knownReplicas() []models.Replica {
	e.t.Helper()
	replicas, err := e.store.Replicas(e.t.Context())
	require.NoError(e.t, err)
	return replicas
}

// hasty makes replicas consider each other dead after a second.
func hasty(f *Feed) {
	f.params.lease, f.params.maintenance, f.params.replicaGrace = lease, 50*time.Millisecond, 500*time.Millisecond
}

func TestDeadReplicasAreReaped(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		killed, left := e.replica(hasty), e.replica(hasty)
		killed.connect()
		fine := left.connect()
		killed.stop()
		k := e.revoke()
		fine.acknowledge(k, left)
		got := left.receipt(k, 100*time.Millisecond)
		require.False(t, got.Complete, "the data plane of the killed replica still has a lease")
		require.Equal(t, 2, got.DataPlanes)
		got = left.receipt(k, feedtest.Patience)
		require.True(t, got.Complete)
		require.Equal(t, 1, got.Acknowledged)
		e.eventually("its rows are gone", func() bool { return len(e.knownReplicas()) == 1 })
		k = e.revoke()
		fine.acknowledge(k, left)
		left.requireComplete(k, 1, 1)
	})
}

// Other replicas consider a replica dead if its heartbeats don't reach the database, and delete the rows of its
// streams. So the replica sends these streams no heartbeats, and ends them once it can store its own again.
func TestStreamsOfReapedReplicaEnd(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		withFaults, isFaulty := e.faultyStore("RecordHeartbeat")
		cutOff, other := e.replica(hasty, withFaults), e.replica(hasty)
		m := cutOff.connect()
		isFaulty.Store(true)
		e.eventually("it is reaped", func() bool { return len(e.knownReplicas()) == 0 })
		k := e.revoke()
		last := m.Await("the revocation, without a heartbeat", func(got feedtest.Message) bool {
			return isAbout(k.ID)(got) && got.Type == "key.revoked"
		})
		beats := m.heartbeats()
		leaseEnd := m.When(*beats[len(beats)-1].ClockMs).Add(lease)
		require.True(t, leaseEnd.Before(last.At), "its lease ended before it was reaped")
		isFaulty.Store(false)
		require.NoError(t, m.AwaitEnd())
		back := cutOff.subscribe(m.resumed())
		k = e.revoke()
		require.False(t, other.receipt(k, 0).Complete)
		back.acknowledge(k, other)
		require.True(t, other.receipt(k, feedtest.Patience).Complete)
	})
}

// Other replicas may consider a replica without streams dead, and would delete its next stream.
func TestIdleReplicaSendsHeartbeatFirst(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(func(f *Feed) { f.params.maintenance = time.Hour })
		time.Sleep(2500 * time.Millisecond)
		require.Empty(t, e.knownReplicas())
		r.connect()
		require.Positive(t, e.knownReplicas()[0].Heartbeats)
	})
}

// counts returns how many data planes serve a customer, according to the last heartbeat.
func (m *member) counts(customer string) (n int) { return countsIn(m.heartbeats(), customer) }

func countsIn(heartbeats []feedtest.Message, customer string) (n int) {
	for _, got := range heartbeats {
		if got.DataPlanes == nil {
			continue
		}
		n = *got.DataPlanes
		for _, of := range got.DataPlanesByCustomer {
			if of.CustomerID == customer {
				n = of.DataPlanes
			}
		}
	}
	return n
}

func TestHeartbeatsCountTheDataPlanesOfACustomer(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		often := func(f *Feed) { f.params.maintenance = 100 * time.Millisecond }
		one, two := e.replica(often), e.replica(often)
		first := one.connect()
		require.NotNil(t, first.heartbeats()[0].DataPlanes, "the first heartbeat says it")
		second, limited := two.connect(), one.connect(acme, "globex")
		all := []*member{first, second, limited}
		requireCounts := func(acmes, others int) {
			t.Helper()
			e.eventually("counts", func() bool {
				for _, m := range all {
					if m.counts(acme) != acmes || m != limited && m.counts("other") != others {
						return false
					}
				}
				return true
			})
		}
		requireCounts(3, 2)
		for _, of := range limited.heartbeats() {
			for _, named := range of.DataPlanesByCustomer {
				require.Contains(t, []string{acme, "globex"}, named.CustomerID, "only its own customers")
			}
		}
		other := two.connect("initech")
		require.Equal(t, 3, countsIn(other.heartbeats()[:1], "initech"), "those for all customers, and this one")
		other.Leave()
		again := two.connect(acme)
		require.Equal(t, 4, countsIn(again.heartbeats()[:1], acme))
		requireCounts(4, 2)
		again.Leave()
		second.Leave()
		all = []*member{first, limited}
		requireCounts(2, 1)
		heartbeats := len(first.heartbeats())
		e.eventually("more heartbeats", func() bool { return len(first.heartbeats()) > heartbeats+2 })
		require.Nil(t, first.heartbeats()[heartbeats+2].DataPlanes, "nothing has changed")
	})
}

func TestTooManyCustomersToCountMakeSharesSmaller(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r, customers := e.replica(), make([]string, 301)
		for i := range customers {
			customers[i] = fmt.Sprint("c", i)
		}
		m := r.connect()
		r.connect(customers...)
		e.eventually("counts", func() bool { return m.counts(customers[0]) == 2 && m.counts("other") == 2 })
		var last []gen.DataPlanesOfCustomer
		for _, got := range m.heartbeats() {
			if got.DataPlanes != nil {
				last = got.DataPlanesByCustomer
			}
		}
		require.Empty(t, last)
	})
}

func TestHello(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(700 * time.Millisecond))
		m := r.connect()
		all := m.All()
		require.Equal(t, "hello", all[0].Type, "it comes first")
		require.Len(t, *all[0].SessionID, 26)
		require.Len(t, *all[0].ReplicaID, 26)
		require.Equal(t, 700, *all[0].LeaseMs)
		require.Equal(t, 1, *all[0].AcknowledgeWithinMs, "for one stream")
		require.Empty(t, all[0].ID)
		require.Equal(t, "heartbeat", all[1].Type)
		require.False(t, m.When(*all[1].ClockMs).After(all[1].At), "what was sent was read before")
		_, err := position.Parse(all[1].ID)
		require.NoError(t, err)
	})
}

// backlog lets streams resume if they have missed at most ten changes.
func backlog(f *Feed) { f.params.maxBacklog = 10 }

func TestResumeTooFarBackResets(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		require.Equal(t, 1_000, production.maxBacklog)
		r := e.replica(backlog)
		steady, first := r.connect(), r.connect()
		first.Leave()
		steady.Await("the last of them", isAbout(e.change(acme, 10)))
		require.Equal(t, []string{"hello", "key.registered", "key.registered"}, r.subscribe(first.resumed()).types()[:3], "ten can be missed")
		steady.Await("another", isAbout(e.change(acme, 1)))
		require.Equal(t, []string{"hello", "reset", "heartbeat"}, r.subscribe(first.resumed()).types()[:3])

		future, err := e.store.Position(t.Context())
		require.NoError(t, err)
		future.Xmin, future.Xmax, future.Open = future.Xmax+1000, future.Xmax+1000, nil
		require.Equal(t, []string{"hello", "reset", "heartbeat"}, r.subscribe(Subscription{DataPlane: e.dataPlane(), Resume: &future}).types()[:3])
	})
}

// Other customers' changes take time to read, but reset no one.
func TestOtherCustomersChangesResetNoResume(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(backlog)
		steady, first := r.connect(), r.connect(acme)
		first.Leave()
		e.change("globex", 15) // the first page holds a part of this
		own := []string{e.change(acme, 1), e.change(acme, 1)}
		steady.Await("the last of them", isAbout(own[1]))
		var got []string
		for _, m := range r.subscribe(first.resumed()).All() {
			require.NotEqual(t, "reset", m.Type)
			if m.KeyID != nil {
				got = append(got, *m.KeyID)
			}
		}
		require.Equal(t, own, got, "each once, and nobody else's")
	})
}

func TestABacklogIsReadWithinPartOfALease(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		const lease = 10 * time.Second
		r := e.replica(backlog, withLease(lease), withStore(hookedStore{e.newStore(), func(ctx context.Context, method string) context.Context {
			if method == "Changes" {
				time.Sleep(lease/4 + time.Millisecond)
			}
			return ctx
		}}))
		steady, first := r.connect(), r.connect(acme)
		first.Leave()
		steady.Await("others", isAbout(e.change("globex", 10)))
		require.NotContains(t, r.subscribe(first.resumed()).types(), "reset", "one page is always read")
		steady.Await("others", isAbout(e.change("globex", 1)))
		require.Contains(t, r.subscribe(first.resumed()).types(), "reset")
	})
}

// A replica must not take a position that it has not reached yet for a position of another history. The lagging replica
// polls every 24 minutes, and is not woken.
func TestResumeAtLaggingReplica(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		ahead := e.replica()
		withFaults, isFaulty := e.faultyStore("Watch")
		isFaulty.Store(true)
		lagging := e.replica(withLease(time.Hour), withFaults)
		for range 5 {
			m := ahead.connect()
			m.AwaitRevocation(e.revoke().ID)
			resumed := lagging.subscribe(m.resumed())
			require.False(t, slices.Contains(resumed.types(), "reset"))
		}
	})
}

// Guarantee 5: a slow reader is dropped, delays no other, and misses nothing once it resumes.
func TestSlowReadersHurtNobody(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		fine, slow := r.connect(), r.connect()
		slow.Stall()
		var keys []string
		began := time.Now()
		for range 100 { // more than a queue holds
			key := e.change(acme, 1)
			keys = append(keys, key)
			committed := time.Now()
			require.LessOrEqual(t, fine.Await("the change", isAbout(key)).At.Sub(committed), 10*time.Millisecond)
		}
		require.NoError(t, slow.AwaitEnd())
		require.Less(t, time.Since(began), 3*time.Second)
		e.eventually("it is dropped", func() bool { return r.openStreams() == 1 })
		again := r.subscribe(slow.resumed())
		require.False(t, slices.Contains(again.types(), "reset"))
		for _, key := range keys {
			require.True(t, slices.ContainsFunc(again.All(), isAbout(key)))
		}
	})
}

func TestPausedReaderGetsAllInOrder(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		resume := make(chan struct{})
		m, err := r.tryConnect(Subscription{DataPlane: e.dataPlane()}, func(got feedtest.Message) {
			if got.Type == "key.registered" {
				<-resume
			}
		})
		require.NoError(t, err)
		var keys, told []string
		for range 30 {
			key := e.change(acme, 1)
			keys = append(keys, key)
			time.Sleep(10 * time.Millisecond)
		}
		close(resume)
		m.Await("the last change", isAbout(keys[29]))
		for _, got := range m.All() {
			if got.Type == "key.registered" {
				told = append(told, *got.KeyID)
			}
		}
		require.Equal(t, keys, told)
	})
}

// Messages from before the database was restored would extend a lease, and have a position with another meaning.
func TestLastMessageComesLast(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica()
		resume := make(chan struct{})
		m, err := r.tryConnect(Subscription{DataPlane: e.dataPlane()}, func(got feedtest.Message) {
			if got.Type == "key.registered" {
				<-resume
			}
		})
		require.NoError(t, err)
		e.change(acme, 1)
		time.Sleep(2 * time.Second) // heartbeats queue up
		e.execute("DELETE FROM events")
		e.eventually("the stream ends", func() bool { return r.openStreams() == 0 })
		close(resume)
		require.NoError(t, m.AwaitEnd())
		all := m.All()
		require.Equal(t, "reset", all[len(all)-2].Type)
		require.Zero(t, *all[len(all)-1].ClockMs)
	})
}

// If a stream ends in the middle of a message, the data plane must see neither an open stream nor a proper end.
func TestSlowConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	e := newEnv(t, modelstest.EngineSQLite.MigratedURL(t))
	r := e.replica()
	dataPlane := e.dataPlane()
	for name, protocol := range map[string]string{"HTTP/1.1": "http/1.1", "HTTP/2": "h2"} {
		t.Run(name, func(t *testing.T) {
			served := make(chan error, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				s, err := r.Subscribe(req.Context(), Subscription{DataPlane: dataPlane, Arrived: time.Now()})
				if err == nil {
					err = s.Serve(req.Context(), w)
				}
				served <- err
			}))
			server.EnableHTTP2 = protocol == "h2"
			server.Config.ConnState = func(c net.Conn, state http.ConnState) {
				if secure, ok := c.(*tls.Conn); ok && state == http.StateNew {
					if socket, ok := secure.NetConn().(*net.TCPConn); ok {
						_ = socket.SetWriteBuffer(16 << 10) // a small buffer fills up soon
					}
				}
			}
			server.StartTLS()
			defer server.Close()
			authorities := x509.NewCertPool()
			authorities.AddCert(server.Certificate())
			transport := &http.Transport{
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
					if socket, ok := conn.(*net.TCPConn); ok {
						_ = socket.SetReadBuffer(16 << 10) // so does this one
					}
					return conn, err
				},
				TLSClientConfig:   &tls.Config{RootCAs: authorities, NextProtos: []string{protocol}},
				ForceAttemptHTTP2: protocol == "h2", HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
			}
			defer transport.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, http.NoBody)
			require.NoError(t, err)
			response, err := transport.RoundTrip(req)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			require.Equal(t, protocol == "h2", response.ProtoMajor == 2)
			body := bufio.NewReader(response.Body)
			_, err = body.ReadString('\n')
			require.NoError(t, err)
			for full := false; !full; { // nobody reads, so the buffers of the kernel and of the client fill up
				select {
				case err := <-served:
					require.NoError(t, err)
					full = true
				case <-time.After(20 * time.Millisecond):
					e.change(acme, 300)
				}
			}
			text, err := io.ReadAll(body)
			if err == nil { // its queue got full between two writes
				require.True(t, strings.HasSuffix(string(text), "\n\n"))
			}
			require.NotErrorIs(t, err, context.Canceled)
		})
	}
}

func TestStreamEndsByAge(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(func(f *Feed) { f.params.lease, f.params.maintenance = time.Hour, time.Hour })
		m := r.connect()
		time.Sleep(15 * time.Minute)
		require.False(t, m.Ended())
		time.Sleep(8 * time.Minute)
		require.True(t, m.Ended())
		require.NoError(t, m.AwaitEnd())
	})
}
