package feed_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// replicas starts some, or the one that SQLite allows.
func (w *world) replicas(n int, o options) []*replica {
	if w.engine == modelstest.EngineSQLite {
		n = 1
	}
	all := make([]*replica, n)
	for i := range all {
		all[i] = w.replica(o)
	}
	return all
}

// written is what writers have written: keys by customer.
type written struct {
	mu   sync.Mutex
	keys map[string][]string
}

// write has n writers commit events of some customers, out of order.
func (w *world) write(n, each int, customers []string) *written {
	out := &written{keys: map[string][]string{}}
	longest := 15 * time.Millisecond
	if w.engine == modelstest.EngineSQLite { // writers take turns there
		longest = time.Millisecond
	}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for range each {
				customer, key := customers[rand.IntN(len(customers))], w.keyID()
				err := w.store.Transact(w.t.Context(), func(tx *models.Tx) error {
					if err := tx.AppendEvent(w.event(models.EventKeyRegistered, customer, key)); err != nil {
						return err
					}
					time.Sleep(rand.N(longest))
					return nil
				})
				if err != nil {
					w.t.Errorf("a writer: %v", err)
					return
				}
				out.mu.Lock()
				out.keys[customer] = append(out.keys[customer], key)
				out.mu.Unlock()
			}
		})
	}
	all.Wait()
	return out
}

// follow follows the changes by streams that are cut at random moments and resumed at any replica, until it gets word. It returns
// the keys that it was told of, and everything that it read.
func (w *world) follow(replicas []*replica, dataPlane string, begun chan<- struct{}, finish <-chan models.Position) (
	told map[string]bool, raw string,
) {
	told = map[string]bool{}
	apply := func(m message) {
		if m.Type == "reset" {
			w.t.Error("a reset, though little was missed")
		}
		if m.KeyID != nil {
			told[*m.KeyID] = true
		}
	}
	q := request{dataPlane: dataPlane, apply: apply}
	for once, done := false, false; ; {
		var until models.Position
		select {
		case until = <-finish:
			done = true
		default:
		}
		c, _ := open(w.t, replicas[rand.IntN(len(replicas))].base, q)
		if c == nil {
			w.t.Error("a stream did not open")
			return told, raw
		}
		if !once {
			c.await("a heartbeat", typed("heartbeat"))
			close(begun)
			once = true
		}
		if done {
			c.await("the rest", func(m message) bool { return m.Type == "heartbeat" && covers(m.position(w.t), until) })
		} else {
			time.Sleep(rand.N(40 * time.Millisecond)) // the moment of the cut: nothing is waited for
		}
		c.cut()
		q.resume = c.last()
		if all := c.all(); len(all) > 0 {
			q.previous = *all[0].SessionID
		}
		raw += c.raw.String()
		if done {
			return told, raw
		}
	}
}

// covers tells whether a position of a time without open transactions holds another.
func covers(p, of models.Position) bool { return p.Xmax >= of.Xmax && len(p.Open) == 0 }

func TestEachDataPlaneIsToldOfAllChangesOfItsCustomersAndNoOthers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		replicas := w.replicas(3, options{})
		customers := []string{"customer-a", "customer-b", "customer-c"}
		serves := [][]string{nil, nil, {"customer-a"}, {"customer-b", "customer-c"}, {"customer-c"}}
		type result struct {
			told map[string]bool
			raw  string
		}
		results := make([]result, len(serves))
		finish := make(chan models.Position, len(serves))
		var following sync.WaitGroup
		for i, s := range serves {
			dataPlane, begun := w.dataPlane(s...).ID, make(chan struct{})
			following.Go(func() {
				results[i].told, results[i].raw = w.follow(replicas, dataPlane, begun, finish)
			})
			<-begun
		}
		all := w.write(8, 25, customers)
		end, err := w.store.Position(t.Context())
		require.NoError(t, err)
		for range serves {
			finish <- end
		}
		following.Wait()
		for i, s := range serves {
			for _, customer := range customers {
				if s != nil && !slices.Contains(s, customer) {
					require.NotContains(t, results[i].raw, customer)
					for _, key := range all.keys[customer] {
						require.NotContains(t, results[i].raw, key)
					}
					continue
				}
				for _, key := range all.keys[customer] {
					require.True(t, results[i].told[key], "a data plane of %v missed a change of %s", s, customer)
				}
			}
		}
	})
}

// On SQLite nobody else can write meanwhile.
func TestATransactionThatStaysOpenDelaysNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	replicas := w.replicas(2, options{})
	slow := modelstest.OpenStore(t, w.url, models.Options{Timeout: time.Minute})
	opened, release, closed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	late := w.keyID()
	go func() {
		closed <- slow.Transact(t.Context(), func(tx *models.Tx) error {
			err := tx.AppendEvent(w.event(models.EventKeyRegistered, acme, late))
			close(opened)
			<-release
			return err
		})
	}()
	<-opened
	dataPlane := w.dataPlane().ID
	steady := replicas[0].connect(request{dataPlane: dataPlane})
	var delays []time.Duration
	for range 20 {
		k := replicas[1].revoke()
		committed := time.Now()
		delays = append(delays, steady.await("the revocation", about(k.ID)).at.Sub(committed))
	}
	slices.Sort(delays)
	require.Less(t, delays[10], 250*time.Millisecond, "as without it")

	resumed := replicas[1].connect(request{resume: steady.last()})
	k := replicas[0].revoke()
	resumed.await("the revocation", after(k.ID))
	resumed.cut()
	close(release)
	require.NoError(t, <-closed)
	steady.await("the change that was open", about(late))
	again := replicas[0].connect(request{resume: resumed.last()})
	again.await("the change that was open when the position was taken", about(late))
	require.False(t, slices.ContainsFunc(again.all(), typed("reset")))
}

func TestWhoCannotResumeBeginsAnew(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{})
		steady := r.connect(request{})
		first := r.connect(request{})
		first.cut()
		flood := func(n int) {
			keys := w.flood(n, "web")
			steady.await("the last of them", about(keys[n-1]))
		}
		flood(1000)
		old := r.connect(request{resume: first.last()})
		counts := map[string]int{}
		for _, m := range old.all() {
			counts[m.Type]++
		}
		require.Equal(t, 1000, counts["key.registered"], "as many can be missed")
		require.Zero(t, counts["reset"])
		flood(1)
		tooOld := r.connect(request{resume: first.last()})
		require.Equal(t, []string{"hello", "reset", "heartbeat"}, types(tooOld.all()[:3]))

		now, err := w.store.Position(t.Context())
		require.NoError(t, err)
		now.Xmin, now.Xmax, now.Open = now.Xmax+1000, now.Xmax+1000, nil
		future := r.connect(request{resume: now.String()})
		require.Equal(t, []string{"hello", "reset", "heartbeat"}, types(future.all()[:3]))
	})
}

func types(all []message) []string {
	var out []string
	for _, m := range all {
		out = append(out, m.Type)
	}
	return out
}

func TestADatabaseThatWentBackResetsAllAndIsFollowedFromThere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{})
		before, err := w.store.Position(t.Context())
		require.NoError(t, err)
		c := r.connect(request{})
		k := r.revoke()
		c.await("the revocation", after(k.ID))
		w.execute("DELETE FROM events WHERE tx >= " + fmt.Sprint(before.Xmax))
		w.execute("DELETE FROM streams")
		reset := c.await("reset", typed("reset"))
		c.awaitWholeEnd()
		last := c.all()[len(c.all())-1]
		require.Equal(t, "heartbeat", last.Type, "it says where to resume")
		require.Zero(t, *last.ClockMs, "and extends no lease")
		require.NotEqual(t, reset.id, last.id)
		again := r.connect(request{resume: c.last(), previous: c.session()})
		require.False(t, slices.ContainsFunc(again.all(), typed("reset")))
		again.await("what comes next", about(r.revoke().ID))
	})
}

// A replica that lags behind the one that a data plane had before is no reason to begin anew.
func TestAPositionThatThisReplicaHasYetToReadIsNoneOfTheFuture(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	ahead := w.replica(options{})
	lagging := w.replica(options{lease: time.Hour}) // it polls every 24 minutes
	silent := &replica{w: w, store: modelstest.OpenStore(t, w.url, models.Options{})}
	for range 5 {
		c := ahead.connect(request{})
		k := w.key()
		silent.revokeKey(&k) // it wakes nobody
		c.await("the revocation", after(k.ID))
		resumed := lagging.connect(request{resume: c.last(), previous: c.session()})
		require.False(t, slices.ContainsFunc(resumed.all(), typed("reset")))
	}
}

func TestReplicasWakeOneAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	replicas := w.replicas(2, options{})
	c := replicas[1].connect(request{})
	var delays []time.Duration
	for range 20 {
		k := w.key()
		replicas[0].revokeKey(&k)
		committed := time.Now()
		delays = append(delays, c.await("the revocation", func(m message) bool {
			return about(k.ID)(m) && m.Type == "key.revoked"
		}).at.Sub(committed))
	}
	slices.Sort(delays)
	t.Logf("from the commit at one replica to a data plane at another: p50 %v, max %v", delays[10], delays[19])
	require.Less(t, delays[5], 100*time.Millisecond, "polling takes up to 400 ms")
}

func TestPollingMakesUpForLostNotifications(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	named := w.url + "&application_name=deaf"
	deaf := w.replica(options{store: modelstest.OpenStore(t, named, models.Options{MaxConns: 8})})
	talking := w.replica(options{})
	c := deaf.connect(request{})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				w.execute(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'deaf' AND query LIKE 'LISTEN %'`)
			}
		}
	}()
	for range 4 {
		k := w.key()
		talking.revokeKey(&k)
		committed := time.Now()
		m := c.await("the revocation", func(m message) bool { return about(k.ID)(m) && m.Type == "key.revoked" })
		require.Less(t, m.at.Sub(committed), 5*time.Second, "at 400 ms and what a busy machine adds")
	}
	close(stop)
	<-stopped
}
