package feed

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
)

// lease is short where a test waits for its end.
const lease = 600 * time.Millisecond

func TestReceiptWithoutDataPlanes(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(time.Minute))
		r.connect("globex")
		require.Equal(t, Receipt{Complete: true}, r.receipt(e.revoke(), 0))
		require.Equal(t, Receipt{Complete: true}, r.receipt(e.key(), 0), "not revoked at all")
	})
}

func TestReceiptByAcknowledgements(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(time.Minute))
		var all []*member
		for range 3 {
			all = append(all, r.connect(acme))
		}
		before := all[0].Last()
		k := e.revoke()
		all[0].AwaitRevocation(k.ID)
		r.acknowledge(all[0], before, nil) // a position from before the revocation
		waited := make(chan Receipt)
		go func() { got, _ := r.WaitForReceipt(t.Context(), k.Stop(), feedtest.Patience); waited <- got }()
		for i, m := range all {
			require.False(t, r.receipt(k, 0).Complete)
			if i == 1 {
				m.AwaitRevocation(k.ID)
				m.Leave() // its acknowledgement may arrive after its stream has ended
			}
			time.Sleep(20 * time.Millisecond)
			m.acknowledge(k, r)
			m.acknowledge(k, r) // twice counts once
		}
		got := <-waited
		require.True(t, got.Complete)
		require.Equal(t, []int{3, 3}, []int{got.Acknowledged, got.DataPlanes})
		require.GreaterOrEqual(t, got.Slowest, 60*time.Millisecond)
		require.Less(t, got.Slowest, feedtest.Patience)
	})
}

func TestReceiptHasTheRequestsInFlight(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		here, there := e.replica(withLease(time.Minute)), e.replica(withLease(time.Minute))
		edge, older := e.dataPlane(), e.dataPlane()
		first, second := here.subscribe(Subscription{DataPlane: edge}), here.subscribe(Subscription{DataPlane: edge})
		elsewhere, silent := there.connect(acme), there.subscribe(Subscription{DataPlane: older})
		k := e.revoke()
		first.acknowledge(k, here, 3)
		e.eventually("a pending receipt has it", func() bool {
			got := here.receipt(k, 0)
			return !got.Complete && got.Counted == 1 && got.InFlight == 3
		})
		second.acknowledge(k, there, 0) // this replica stores it for the other one
		elsewhere.acknowledge(k, here, 7)
		silent.acknowledge(k, there)
		for _, r := range []*replica{here, there} {
			got := r.receipt(k, feedtest.Patience)
			require.True(t, got.Complete)
			require.Equal(t, []any{4, 3, int64(10)}, []any{got.Acknowledged, got.Counted, got.InFlight})
			for i := range got.ByDataPlane {
				require.Positive(t, got.ByDataPlane[i].SlowestUs)
				got.ByDataPlane[i].SlowestUs = 0
			}
			require.Equal(t, []models.DataPlaneReceipt{
				{Name: elsewhere.Name, Streams: 1, Acknowledged: 1, Counted: 1, InFlight: 7},
				{Name: edge.Name, Streams: 2, Acknowledged: 2, Counted: 2, InFlight: 3},
				{Name: older.Name, Streams: 1, Acknowledged: 1},
			}, got.ByDataPlane)
		}
	})
}

// states returns the states of data planes by name. It requires that a data plane has a time if and only if it has
// acknowledged.
func states(t *testing.T, r Receipt) map[string]PlaneState {
	t.Helper()
	found := map[string]PlaneState{}
	for _, p := range r.Planes {
		require.Equal(t, p.State == PlaneAcknowledged, p.Took > 0)
		found[p.Name] = p.State
	}
	return found
}

func TestReceiptNamesDataPlanes(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		here, there := e.replica(withLease(time.Minute)), e.replica(withLease(time.Minute))
		quick, copied := here.connect(acme), e.dataPlane()
		first, second := here.subscribe(Subscription{DataPlane: copied}), there.subscribe(Subscription{DataPlane: copied})
		there.connect("globex")
		k := e.revoke()
		require.Equal(t, map[string]PlaneState{quick.Name: PlaneWaiting, copied.Name: PlaneWaiting}, states(t, here.receipt(k, 0)))
		quick.acknowledge(k, here)
		first.acknowledge(k, here)
		e.eventually("one of two copies has acknowledged", func() bool {
			got := here.receipt(k, 0)
			return got.Acknowledged == 2 && states(t, got)[copied.Name] == PlaneWaiting && got.Planes[0].Name == copied.Name
		})
		second.acknowledge(k, there)
		got := here.receipt(k, feedtest.Patience)
		require.True(t, got.Complete)
		require.Equal(t, map[string]PlaneState{quick.Name: PlaneAcknowledged, copied.Name: PlaneAcknowledged}, states(t, got))
		require.GreaterOrEqual(t, got.Planes[0].Took, got.Planes[1].Took, "the slowest is first")
	})
}

func TestReceiptNamesThoseWhoseLeaseExpired(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		r := e.replica()
		silent, gone := r.connect(acme), r.connect(acme)
		k := e.revoke()
		gone.Leave()
		got := r.receipt(k, feedtest.Patience)
		require.True(t, got.Complete)
		want := map[string]PlaneState{silent.Name: PlaneLeaseExpired, gone.Name: PlaneLeaseExpired}
		require.Equal(t, want, states(t, got))
		e.eventually("its stream is dropped", func() bool {
			ids, err := e.store.StreamIDs(t.Context(), *gone.All()[0].ReplicaID)
			return err == nil && !slices.Contains(ids, gone.Session())
		})
		require.Equal(t, want, states(t, r.receipt(k, 0)))
	})
}

func TestReceiptListsABoundedNumberOfDataPlanes(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(time.Minute))
		var all []*member
		for range 103 {
			all = append(all, r.connect(acme))
		}
		k := e.revoke()
		for i, m := range all {
			m.acknowledge(k, r, i/100) // the last three have one each
		}
		got := r.receipt(k, feedtest.Patience)
		require.Equal(t, []any{103, 103, int64(3)}, []any{got.Acknowledged, got.Counted, got.InFlight})
		require.Len(t, got.ByDataPlane, 100)
		require.Len(t, got.Planes, 100)
		require.Equal(t, []int64{1, 1, 1, 0}, []int64{
			got.ByDataPlane[0].InFlight, got.ByDataPlane[1].InFlight, got.ByDataPlane[2].InFlight, got.ByDataPlane[3].InFlight,
		})
	})
}

func TestAcknowledgeUnknownStream(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(time.Minute))
		m := r.connect()
		k := e.revoke()
		at, err := position.Parse(m.AwaitRevocation(k.ID).ID)
		require.NoError(t, err)
		require.ErrorIs(t, r.Acknowledge(t.Context(), e.dataPlane().ID, m.Session(), at, nil), models.ErrNotFound, "of another data plane")
		require.ErrorIs(t, r.Acknowledge(t.Context(), m.ID, e.ids.Next("", time.Now()), at, nil), models.ErrNotFound)
		require.False(t, r.receipt(k, 0).Complete)
	})
}

func TestReceiptByEndOfLease(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(lease))
		all := []*member{r.connect(), r.connect(), r.connect()}
		k := e.revoke()
		revoked := time.Now()
		all[0].acknowledge(k, r)
		all[1].acknowledge(k, r)
		got := r.receipt(k, 100*time.Millisecond)
		require.False(t, got.Complete)
		require.Positive(t, got.Remaining)
		require.LessOrEqual(t, got.Remaining, lease)
		r.requireComplete(k, 2, 3)
		require.GreaterOrEqual(t, time.Since(revoked), lease-10*time.Millisecond, "it was committed just before")
	})
}

func TestReceiptWaitsForGrace(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		const grace = 10 * time.Second
		r := e.replica()
		sub := Subscription{DataPlane: e.dataPlane(), MaxStale: grace}
		stale := r.subscribe(sub)
		k := e.revoke()
		stale.AwaitRevocation(k.ID)
		got := r.receipt(k, 0)
		require.False(t, got.Complete)
		require.InDelta(t, 11, got.Remaining.Seconds(), 0.1, "the lease and the grace")
		stale.acknowledge(k, r)
		r.requireComplete(k, 1, 1)

		stale.Leave()
		k = e.revoke()
		r.connect("globex")
		got = r.receipt(k, 2*time.Second)
		require.False(t, got.Complete, "it left just before, and serves on")
		require.Equal(t, 1, got.DataPlanes)

		sub = stale.resumed()
		sub.MaxStale = grace
		back := r.subscribe(sub)
		require.False(t, r.receipt(k, 0).Complete, "it has yet to act on it")
		back.acknowledge(k, r)
		r.requireComplete(k, 1, 1)
		k = e.revoke()
		back.acknowledge(k, r)
		r.requireComplete(k, 1, 1) // the stream that was carried on no longer counts

		back.Leave()
		k = e.revoke()
		began := time.Now()
		require.True(t, r.receipt(k, 2*grace).Complete)
		require.InDelta(t, 11, time.Since(began).Seconds(), 0.5, "nothing but time is needed")
	})
}

func TestAcknowledgeAtAnyReplica(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		o := withLease(time.Minute)
		all := []*replica{e.replica(o), e.replica(o), e.replica(o)}
		members := []*member{all[0].connect(), all[1].connect(), all[1].connect()}
		k := e.revoke()
		for i, m := range members {
			for _, r := range all {
				require.False(t, r.receipt(k, 0).Complete)
			}
			m.acknowledge(k, all[(i+1)%3])
		}
		for _, r := range all {
			r.requireComplete(k, 3, 3)
		}
		require.Equal(t, all[0].receipt(k, 0), all[1].receipt(k, 0))
	})
}

// A data plane that still holds a lease moves from a dead replica to another one. The receipt counts the data plane
// until it has acted on the changes that the dead replica did not send, even though the new replica had read the
// revocation before the data plane connected.
func TestReceiptWaitsForStreamOfDeadReplica(t *testing.T) {
	t.Parallel()
	for name, others := range map[string]int{"with others at the new one": 1, "alone": 0} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, e *env) {
				dead, next := e.replica(withLease(time.Minute)), e.replica(withLease(time.Minute))
				m := dead.connect()
				dead.stop()
				var steady []*member
				for range others {
					steady = append(steady, next.connect())
				}
				k := e.revoke()
				for _, s := range steady {
					s.acknowledge(k, next)
				}
				e.eventually("the new one has read it", func() bool { return next.holds(k.RevocationTx) })
				require.False(t, next.receipt(k, 0).Complete)
				back := next.subscribe(m.resumed())
				require.False(t, next.receipt(k, 200*time.Millisecond).Complete)
				back.acknowledge(k, next)
				next.requireComplete(k, others+1, others+1)
			})
		})
	}
}

// A data plane that moves to another replica, for example behind a load balancer, delays no receipt of either replica.
// The replica that it left notices the move even if the old connection still seems open.
func TestReceiptAfterStreamMoves(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		o := func(f *Feed) { f.params.lease, f.params.maintenance = time.Minute, 50*time.Millisecond }
		left, next := e.replica(o), e.replica(o)
		m := left.subscribe(Subscription{DataPlane: e.dataPlane(), MaxStale: time.Minute})
		pending := e.revoke()
		m.AwaitRevocation(pending.ID)
		e.eventually("both have read it", func() bool {
			return left.holds(pending.RevocationTx) && next.holds(pending.RevocationTx)
		})
		back := next.subscribe(m.resumed())
		e.eventually("the replica that it left knows", func() bool { return left.openStreams() == 0 })
		require.True(t, left.receipt(pending, feedtest.Patience).Complete, "its position says that it has acted on it")
		k := e.revoke()
		back.acknowledge(k, next)
		left.requireComplete(k, 1, 1)
	})
}

// A replica that starts while the database is away for longer than a lease does not know what happened in that time.
func TestReceiptCountsFromFirstRead(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		withFaults, isFaulty := e.faultyStore("Position", "Changes")
		isFaulty.Store(true)
		young := e.start(withFaults)
		time.Sleep(10 * time.Second)
		k := e.revoke()
		e.dataPlane()
		e.execute(`INSERT INTO streams (id, data_plane_id, replica_id, max_stale_ms, settled, position)
SELECT 's', id, 'killed a moment ago', 0, 1, '1:1:' FROM data_planes`)
		isFaulty.Store(false)
		e.eventually("it reads", func() bool { return young.holds(0) })
		began := time.Now()
		require.False(t, young.receipt(k, 0).Complete)
		young.requireComplete(k, 0, 1)
		require.InDelta(t, 1, time.Since(began).Seconds(), 0.1, "a lease after it read")
	})
}

func TestReceiptOfRestartedReplica(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(lease))
		r.connect()
		k := e.revoke()
		require.False(t, r.receipt(k, 0).Complete)
		r.stop()
		time.Sleep(lease) // by the old read it would be complete
		began := time.Now()
		again := e.replica(withLease(lease))
		require.False(t, again.receipt(k, 0).Complete)
		require.True(t, again.receipt(k, feedtest.Patience).Complete)
		require.GreaterOrEqual(t, time.Since(began), lease)
	})
}

func TestWaitForReceiptEnds(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(withLease(time.Minute))
		r.connect()
		k := e.revoke()
		began := time.Now()
		require.False(t, r.receipt(k, 0).Complete)
		require.Zero(t, time.Since(began))
		require.False(t, r.receipt(k, 50*time.Millisecond).Complete)
		require.Equal(t, 50*time.Millisecond, time.Since(began), "with its time")

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, _ = r.WaitForReceipt(ctx, k.Stop(), time.Hour)
		require.Equal(t, 100*time.Millisecond, time.Since(began), "with its context")

		ended := make(chan Receipt)
		go func() { got, _ := r.WaitForReceipt(context.Background(), k.Stop(), time.Hour); ended <- got }()
		synctest.Wait()
		r.stop()
		require.False(t, (<-ended).Complete)
		require.Equal(t, 100*time.Millisecond, time.Since(began), "with the feed")
	})
}

func TestWaitersShareOneLook(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		other := e.replica(withLease(time.Minute))
		m := other.connect() // the replica below has to ask what it has acknowledged
		var active, most, reads atomic.Int64
		r := e.replica(withLease(time.Minute), withStore(hookedStore{e.newStore(), func(ctx context.Context, method string) context.Context {
			if method == "Receipts" {
				reads.Add(1)
				most.Store(max(most.Load(), active.Add(1)))
				time.Sleep(50 * time.Millisecond)
				active.Add(-1)
			}
			return ctx
		}}))
		k := e.revoke()
		var waiting sync.WaitGroup
		for i := range 50 {
			waiting.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				got, err := r.WaitForReceipt(t.Context(), k.Stop(), time.Minute)
				require.NoError(t, err)
				require.True(t, got.Complete)
			})
		}
		time.Sleep(5 * time.Second)
		require.Equal(t, int64(1), most.Load())
		require.LessOrEqual(t, reads.Load(), int64(5*time.Second/(50*time.Millisecond)))
		m.acknowledge(k, other)
		waiting.Wait()
	})
}

// Guarantee 6: no replica ever says that a revocation is complete while a data plane may use the key, and every receipt becomes
// complete in time. Data planes connect, acknowledge, leave and restart at random, and replicas are replaced.
func TestReceiptsAreTrue(t *testing.T) {
	type cache struct { // the cache of a data plane that follows the document's rules
		maxStale time.Duration

		mu       sync.Mutex
		keys     map[string]bool
		leaseEnd time.Time
		// The current stream: when its request was sent, whether it resumes, the replica's clock at hello, and whether
		// a heartbeat has come.
		sent    time.Time
		resumes bool
		clock   int64
		beaten  bool
	}
	apply := func(c *cache, m feedtest.Message) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch m.Type {
		case "hello":
			c.clock, c.beaten = *m.ClockMs, false
			if !c.resumes {
				clear(c.keys)
			}
		case "reset":
			clear(c.keys)
		case "heartbeat":
			end := c.sent.Add(time.Duration(*m.ClockMs-c.clock)*time.Millisecond + 300*time.Millisecond)
			if !c.beaten || end.After(c.leaseEnd) {
				c.leaseEnd, c.beaten = end, true
			}
		case "key.revoked":
			delete(c.keys, *m.KeyID)
		}
	}
	each(t, func(t *testing.T, e *env) {
		o := func(f *Feed) {
			f.params.lease, f.params.maintenance, f.params.replicaGrace = 300*time.Millisecond, 30*time.Millisecond, 300*time.Millisecond
		}
		var mu sync.Mutex // guards alive
		alive := []*replica{e.replica(o), e.replica(o), e.replica(o)}
		anyReplica := func() *replica {
			mu.Lock()
			defer mu.Unlock()
			return alive[rand.IntN(len(alive))]
		}
		stop := make(chan struct{})
		var wandering, checks sync.WaitGroup
		var caches []*cache
		for i := range 5 {
			c := &cache{keys: map[string]bool{}, maxStale: time.Duration(i%3) * 150 * time.Millisecond}
			caches = append(caches, c)
			sub := Subscription{DataPlane: e.dataPlane(), MaxStale: c.maxStale}
			wandering.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(rand.N(60 * time.Millisecond)):
					}
					restarted := rand.IntN(8) == 0
					if restarted {
						sub.Previous, sub.Resume = "", nil
					}
					c.mu.Lock()
					if restarted {
						clear(c.keys)
						c.leaseEnd = time.Time{}
					}
					c.sent, c.resumes = time.Now(), sub.Resume != nil
					c.mu.Unlock()
					m, err := anyReplica().tryConnect(sub, func(m feedtest.Message) { apply(c, m) })
					if err != nil {
						continue // the replica has ended
					}
					for range rand.IntN(50) {
						time.Sleep(rand.N(30 * time.Millisecond))
						if at, err := position.Parse(m.Last()); err == nil && rand.IntN(8) > 0 {
							_ = anyReplica().Acknowledge(context.Background(), m.ID, m.Session(), at, nil) // the stream may be gone
						}
					}
					m.Leave()
					if next := m.resumed(); next.Resume != nil {
						sub.Previous, sub.Resume = next.Previous, next.Resume
					}
				}
			})
		}
		for i := range 24 {
			if i%8 == 7 {
				n := rand.IntN(len(alive))
				alive[n].stop()
				fresh := e.replica(o)
				mu.Lock()
				alive[n] = fresh
				mu.Unlock()
			}
			k := e.key()
			for _, c := range caches {
				c.mu.Lock()
				c.keys[k.ID] = true
				c.mu.Unlock()
			}
			k = e.revoke(k)
			checks.Go(func() {
				for deadline := time.Now().Add(feedtest.Patience); ; time.Sleep(rand.N(10 * time.Millisecond)) {
					got, err := anyReplica().Receipt(t.Context(), k.Stop())
					if err == nil && got.Complete {
						break
					}
					if time.Now().After(deadline) {
						t.Errorf("still pending: %+v, %v", got, err)
						return
					}
				}
				for _, c := range caches {
					c.mu.Lock()
					if c.keys[k.ID] && time.Now().Before(c.leaseEnd.Add(c.maxStale)) {
						t.Error("complete, although a data plane may use the key")
					}
					c.mu.Unlock()
				}
			})
			time.Sleep(rand.N(60 * time.Millisecond))
		}
		checks.Wait()
		close(stop)
		wandering.Wait()
	})
}
