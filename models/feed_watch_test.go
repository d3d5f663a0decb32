package models_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// soon is how long a wake-up may take on a busy machine, and how long a watcher may to listen again.
const (
	soon  = time.Second
	again = 15 * time.Second
)

// watcher is a Watch under way. stop ends it; the test does in any case.
type watcher struct {
	woken chan struct{} // holds one wake-up
	count atomic.Int64
	stop  func()
}

func watch(t *testing.T, s *models.Store) *watcher {
	t.Helper()
	w := &watcher{woken: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- s.Watch(ctx, func() {
			w.count.Add(1)
			select {
			case w.woken <- struct{}{}:
			default:
			}
		})
	}()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(soon):
			require.FailNow(t, "watching goes on")
		}
	}
	t.Cleanup(w.stop)
	return w
}

// wakes reports whether do wakes the watcher in time.
func (w *watcher) wakes(t *testing.T, within time.Duration, do func()) bool {
	t.Helper()
	w.drain()
	do()
	return w.awakes(within)
}

// awakes reports whether the watcher has been woken since the last call, or is in time.
func (w *watcher) awakes(within time.Duration) bool {
	select {
	case <-w.woken:
		return true
	case <-time.After(within):
		return false
	}
}

func (w *watcher) drain() {
	select {
	case <-w.woken:
	default:
	}
}

// listeners are the connections that listen to the database's changes.
const listeners = `FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND application_name = current_setting('application_name')`

// alone is a fixture on Postgres with a database, and so a channel, of its own.
func alone(t *testing.T) *fixture {
	t.Helper()
	url := modelstest.Postgres(t) + "&application_name=alone"
	store := modelstest.OpenStore(t, url, models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, store)
	f.url = url
	return f
}

func (f *fixture) listening() int {
	f.t.Helper()
	var n int
	require.NoError(f.t, models.Conn(f.Store).QueryRowContext(f.t.Context(), `SELECT count(*) `+listeners+` AND datname = current_database()`).Scan(&n))
	return n
}

func (f *fixture) awaitListening(n int) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.listening() == n }, again, 5*time.Millisecond)
}

func TestEveryKindOfWriteWakesTheWatcherOfItsStore(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		w := watch(t, f.Store)
		key := f.register(f.shared(olga))
		for name, write := range map[string]func(){
			"register": func() { f.register(f.shared(olga)) },
			"revoke":   func() { f.revokeNoted(&key) },
			"event":    func() { f.note("k") },
			"Wake":     func() { f.Wake() },
		} {
			require.True(t, w.wakes(t, soon, write), name)
		}
	})
}

func TestWatchIsWokenForEarlierCommits(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.note("k")
		w := watch(t, f.Store)
		require.True(t, w.awakes(soon))
	})
}

func TestCommitWakesWatchersOfOtherStores(t *testing.T) {
	t.Parallel()
	f := alone(t)
	writer := &fixture{Store: modelstest.OpenStore(t, f.url, models.Options{}), t: t}
	w, other := watch(t, f.Store), watch(t, writer.Store) // a store that is watched tells the others
	f.awaitListening(2)
	other.drain()
	for range 5 {
		var at time.Time
		require.True(t, w.wakes(t, soon, func() { writer.note("k"); at = time.Now() }))
		t.Logf("woken after %s", time.Since(at))
	}
}

// A pool that is busy holds up neither the watcher of its own store nor its hearing of others.
func TestABusyPoolDelaysNoWakeUp(t *testing.T) {
	t.Parallel()
	f := alone(t)
	busy := modelstest.OpenStore(t, f.url, models.Options{MaxConns: 3})
	w := watch(t, busy)
	f.awaitListening(1)
	for range 3 {
		tx, err := models.Conn(busy).BeginTx(t.Context(), nil)
		require.NoError(t, err)
		t.Cleanup(func() { _ = tx.Rollback() })
	}
	for range 5 {
		require.True(t, w.wakes(t, soon, busy.Wake))
	}
	other := watch(t, f.Store)
	other.drain()
	require.True(t, w.wakes(t, soon, func() { f.note("k") }))
}

func TestAWatcherThatLosesItsConnectionListensAgain(t *testing.T) {
	t.Parallel()
	f := alone(t)
	writer := &fixture{Store: modelstest.OpenStore(t, f.url, models.Options{}), t: t}
	w := watch(t, f.Store)
	watch(t, writer.Store)
	f.awaitListening(2)
	for range 2 {
		require.True(t, w.wakes(t, again, func() {
			require.NoError(t, models.Exec(t.Context(), f.Store, `SELECT pg_terminate_backend(pid, 5000) `+listeners+` AND datname = current_database()`))
		}), "listening again wakes: something may have been missed")
		f.awaitListening(2)
		w.drain()
		require.True(t, w.wakes(t, soon, func() { writer.note("k") }))
	}
}

func TestAWatcherSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	url := cluster.URL("postgres")
	watched := openForOutage(t, url)
	_, err := watched.Migrate(t.Context())
	require.NoError(t, err)
	writer := newFixture(t, openForOutage(t, url))
	w := watch(t, watched)
	watch(t, writer.Store)
	require.True(t, w.wakes(t, soon, func() { writer.note("k") }))
	require.NoError(t, cluster.Stop(modelstest.Fast))
	require.True(t, w.wakes(t, again, func() { require.NoError(t, cluster.Start()) }))
	requireRecovers(t, writer)
	require.Eventually(t, func() bool {
		return w.wakes(t, 100*time.Millisecond, func() { writer.note("k") })
	}, again, time.Millisecond)
}

// A firewall that forgets the connection tells nobody.
func TestAWatcherFindsOutThatTheNetworkForgotItsConnection(t *testing.T) {
	t.Parallel()
	url := modelstest.EnginePostgres.URL(t)
	proxy := newWireProxy(t, url)
	store := modelstest.OpenStore(t, proxy.url, models.Options{Timeout: 500 * time.Millisecond})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	w := watch(t, store)
	require.True(t, w.awakes(soon), "it listens")
	proxy.strand()
	accepted := proxy.accepted.Load()
	require.Eventually(t, func() bool { return proxy.accepted.Load() > accepted }, again, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		return w.wakes(t, 100*time.Millisecond, func() {
			require.NoError(t, models.Exec(t.Context(), modelstest.OpenStore(t, url, models.Options{}), "SELECT pg_notify('aikeys_changes', 'other')"))
		})
	}, again, time.Millisecond)
	proxy.thaw()
}

func TestWatchingEndsWithItsContextAndLeavesNothing(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.URL(t)
		before := goleak.IgnoreCurrent()
		store, err := database.Open(url, models.Options{})
		require.NoError(t, err)
		_, err = store.Migrate(t.Context())
		require.NoError(t, err)
		f := newFixture(t, store)
		w := watch(t, store)
		require.True(t, w.wakes(t, soon, func() { f.note("k") }))
		w.stop()
		require.NoError(t, store.Close())
		require.NoError(t, goleak.Find(before))
	})
}

func TestAWatcherWithoutADatabaseEndsWithItsContext(t *testing.T) {
	store := modelstest.OpenStore(t, "postgres://nobody@127.0.0.1:1/none", models.Options{})
	watch(t, store).stop()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("ended before it began"))
	require.NoError(t, store.Watch(ctx, func() {}))
}

func TestTheWakeUpsOfManyWritersAreOne(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const writers, writes = 100, 5
		looked, pass := make(chan struct{}, writers*writes), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- f.Watch(ctx, func() { // a reader who is held up while they write
				looked <- struct{}{}
				<-pass
			})
		}()
		<-looked
		for _, err := range together(writers, func(int) error {
			var failed error
			for range writes {
				failed = errors.Join(failed, f.Transact(t.Context(), func(tx *models.Tx) error { return tx.AppendEvent(f.event(models.EventPolicySet)) }))
			}
			return failed
		}) {
			require.NoError(t, err)
		}
		close(pass)
		require.Eventually(t, func() bool { return len(looked) >= 1 }, soon, time.Millisecond)
		f.note("last")
		require.Eventually(t, func() bool { return len(looked) >= 2 }, soon, time.Millisecond)
		require.Less(t, len(looked), 100, "one look is for many writes")
		cancel()
		require.NoError(t, <-ended)
	})
}
