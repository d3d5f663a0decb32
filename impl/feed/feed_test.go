package feed_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// Guarantee 1: data planes that reconnect at random, to any replica, are told of every change of their customers, although
// transactions commit out of order. They are told of nobody else's.
func TestNoGap(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		replicas := []*replica{e.replica(options{}), e.replica(options{}), e.replica(options{})}
		customers := []string{"customer-a", "customer-b", "customer-c"}
		serves := [][]string{nil, nil, {"customer-a"}, {"customer-b", "customer-c"}, {"customer-c"}}
		finish := make(chan struct{})
		var end position.Position // set before finish is closed
		var following, writing sync.WaitGroup
		told, raw := make([]map[string]bool, len(serves)), make([]string, len(serves))
		for i, s := range serves {
			told[i] = map[string]bool{}
			first := replicas[i%3].subscribe(feed.Subscription{DataPlane: e.dataPlane(s...)})
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

// Guarantee 2: a transaction that stays open delays no other change, and data planes that resume while it is open get its change
// too. PostgreSQL alone has several writers at a time.
func TestNoDelay(t *testing.T) {
	onPostgres(t, func(t *testing.T, e *env) {
		replicas := []*replica{e.replica(options{}), e.replica(options{})}
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

// Guarantee 2 again: while every connection that requests can take is taken, heartbeats come and changes are told.
func TestNoDelayByBusyRequestPool(t *testing.T) {
	onPostgres(t, func(t *testing.T, e *env) {
		const conns = 4
		store := modelstest.OpenStore(t, e.url, models.Options{MaxConns: conns})
		const lease, grace = 4 * time.Second, 3 * time.Second
		r := e.replica(options{store: store, lease: lease, timing: feed.Timing{Maintenance: 200 * time.Millisecond, Grace: grace}})
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
				store := &faultyStore{Store: e.newStore(), method: method}
				o := options{store: store}
				if method == "RecordHeartbeat" {
					o.timing.Grace = time.Minute // for so long do leases not depend on it
				}
				r := e.replica(o)
				m := r.connect()
				store.blocks.Store(true)
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

// Guarantee 4, the control plane's half: a heartbeat that precedes a revocation vouches for a time before it, so its lease ends
// within the lease's length of the revocation.
func TestBoundedStaleness(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		m := e.replica(options{}).connect()
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
		r := e.replica(options{})
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
		e.change("nobody", 1) // brings a heartbeat, and the next comes an interval later
		time.Sleep(time.Second)
		require.InDelta(t, 270, gaps()[5].Milliseconds(), 5)
		require.InDelta(t, 400, gaps()[6].Milliseconds(), 5)
	})
}

func TestNoHeartbeatWithoutDatabase(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		store := &faultyStore{Store: e.newStore()}
		store.down.Store(true)
		r := e.start(options{store: store})
		time.Sleep(10 * time.Second)
		_, err := r.Subscribe(t.Context(), feed.Subscription{DataPlane: e.dataPlane()})
		require.ErrorIs(t, err, models.ErrUnavailable)

		store.down.Store(false)
		e.eventually("it reads", func() bool { return feed.Holds(r.Feed, 0) })
		m := r.connect()
		store.down.Store(true)
		synctest.Wait()
		before := len(m.heartbeats())
		time.Sleep(10 * time.Second)
		require.Len(t, m.heartbeats(), before)

		store.down.Store(false)
		k := e.revoke()
		m.AwaitRevocation(k.ID)
	})
}

// The lease makes the replica read every 24 minutes, unless it is woken.
func TestReplicasWakeOneAnother(t *testing.T) {
	onPostgres(t, func(t *testing.T, e *env) {
		m := e.replica(options{lease: time.Hour}).connect()
		m.AwaitRevocation(e.revoke().ID)
	})
}

func TestPollingReplacesLostWakeUps(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		m := e.replica(options{store: watchedStore{e.newStore(), watchNothing}}).connect()
		for range 4 {
			k := e.revoke()
			committed := time.Now()
			require.LessOrEqual(t, m.AwaitRevocation(k.ID).At.Sub(committed), 400*time.Millisecond)
		}
	})
}

func TestTooManyChangesResetStreams(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		m := e.replica(options{}).connect()
		e.change(acme, 5000)
		m.AwaitType("reset")
		m.AwaitRevocation(e.revoke().ID)
	})
}

func TestRestoredDatabaseEndsStreams(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		r := e.replica(options{})
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
		r := e.replica(options{})
		all := []*member{r.connect(), r.connect(), r.connect()}
		began := time.Now()
		r.stop()
		synctest.Wait()
		require.Zero(t, time.Since(began))
		for _, m := range all {
			require.True(t, m.Ended())
			require.NoError(t, m.AwaitEnd())
		}
		_, err := r.Subscribe(t.Context(), feed.Subscription{DataPlane: e.dataPlane()})
		require.ErrorIs(t, err, models.ErrUnavailable)
	})
}
func TestMetricsRegisterOnce(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	_, err := feed.New(feed.Config{Metrics: registry})
	require.NoError(t, err)
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 2, "gauges; counters come with what they count")
	_, err = feed.New(feed.Config{Metrics: registry})
	require.Error(t, err)
}
