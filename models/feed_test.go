package models_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// Changes that concern data planes are committed together with their events, once.
func TestChangesForDataPlanesComeWithTheirEvents(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		f.withToken("01A", 0, 0)
		at := f.position()
		policy := models.DefaultPolicy(acme, web)
		policy.UserKeys = models.UserKeysForbid
		for _, act := range []struct {
			kind models.EventType
			do   func(*models.Tx, models.Event) error
			// again is the result of the same act a second time. stores is whether that stores another event.
			again  error
			stores bool
		}{
			{models.EventKeyRevoked, func(tx *models.Tx, e models.Event) error {
				_, err := tx.RevokeKey(&models.Key{ID: key.ID}, "olga", e)
				return err
			}, nil, false},
			{models.EventTokenRevoked, func(tx *models.Tx, e models.Event) error {
				_, err := tx.RevokeToken(acme, web, "01A", e)
				return err
			}, nil, false},
			{models.EventMemberRemoved, func(tx *models.Tx, e models.Event) error { return tx.RemoveMember(acme, web, "moe", e) }, models.ErrNotFound, false},
			{models.EventPolicySet, func(tx *models.Tx, e models.Event) error { return tx.SetPolicy(&policy, "olga", e) }, nil, true},
		} {
			do := func() error {
				event := f.event(act.kind)
				return f.Transact(t.Context(), func(tx *models.Tx) error { return act.do(tx, event) })
			}
			require.NoError(t, do(), act.kind)
			changes := f.changes(&at)
			require.Len(t, changes, 1, act.kind)
			require.Equal(t, act.kind, changes[0].Type)
			require.ErrorIs(t, do(), act.again, act.kind)
			require.Equal(t, act.stores, len(f.changes(&at)) > 0, act.kind)
		}
	})
}

func TestAChangeSaysWhatWasDoneAndWhomItIsAbout(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		require.Empty(t, f.changes(&at))
		shared := f.register(f.shared(olga, provider("openai")))
		own := f.register(f.own(mia, provider("anthropic")))
		f.revoke(&own)
		f.transact(func(tx *models.Tx) error {
			for _, e := range []models.Event{
				f.event(models.EventPolicySet),
				f.event(models.EventMemberSet, func(e *models.Event) { e.MemberID, e.Role = "mia", models.RoleOwner }),
				f.event(models.EventMemberRemoved, func(e *models.Event) { e.MemberID, e.CustomerID, e.ProjectID = "moe", "globex", "ios" }),
				f.event(models.EventTokenRevoked, func(e *models.Event) { e.MemberID, e.TokenID = "mia", "01TOKEN" }),
				f.event(models.EventKeyFailing, about(shared.ID)),
			} {
				if err := tx.AppendEvent(e); err != nil {
					return err
				}
			}
			return nil
		})
		got := f.changes(&at)
		for i := range got {
			require.Positive(t, got[i].Tx)
			require.True(t, at.Contains(got[i].Tx))
			got[i].Tx = 0
		}
		in := func(c models.Change) models.Change { c.CustomerID, c.ProjectID = acme, web; return c }
		require.ElementsMatch(t, []models.Change{
			in(models.Change{Type: models.EventKeyRegistered, KeyID: shared.ID, Provider: "openai"}),
			in(models.Change{Type: models.EventKeyRegistered, KeyID: own.ID, Provider: "anthropic", UserID: "mia"}),
			in(models.Change{Type: models.EventKeyRevoked, KeyID: own.ID, UserID: "mia"}),
			in(models.Change{Type: models.EventPolicySet}),
			in(models.Change{Type: models.EventMemberSet, UserID: "mia"}),
			{Type: models.EventMemberRemoved, CustomerID: "globex", ProjectID: "ios", UserID: "moe"},
			in(models.Change{Type: models.EventTokenRevoked, UserID: "mia", TokenID: "01TOKEN"}),
			in(models.Change{Type: models.EventKeyFailing, KeyID: shared.ID}),
		}, got)
		require.Empty(t, f.changes(&at), "none comes twice")
	})
}

func TestWhatWasDeniedOrUndoneIsNoChange(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		f.transact(func(tx *models.Tx) error {
			return tx.AppendEvent(f.event(models.EventKeyRevoked, func(e *models.Event) { e.Outcome = models.OutcomeDenied }))
		})
		require.ErrorIs(t, f.Transact(t.Context(), func(tx *models.Tx) error {
			require.NoError(t, tx.AppendEvent(f.event(models.EventPolicySet)))
			return errRefused
		}), errRefused)
		require.Empty(t, f.changes(&at))
		f.note("later")
		require.Equal(t, []string{"later"}, keyIDs(f.changes(&at)))
	})
}

func TestChangesAreCutShortAtTheLimit(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		for i := range 7 {
			f.note(fmt.Sprint(i))
		}
		found, _, err := f.Changes(t.Context(), at, 5)
		require.NoError(t, err)
		require.Equal(t, []string{"0", "1", "2", "3", "4"}, keyIDs(found))
		found, _, err = f.Changes(t.Context(), at, 7)
		require.NoError(t, err)
		require.Len(t, found, 7)
	})
}

// The position after a page is before the page's last transaction, because the page may not have all changes of that
// transaction. The next page begins with that transaction, and with transactions that were still running.
func TestChangesPageByPage(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		var want, got []string
		for i := range 3 {
			f.transact(func(tx *models.Tx) error {
				var err error
				for j := range 4 {
					key := fmt.Sprint(i, j)
					want = append(want, key)
					err = errors.Join(err, tx.AppendEvent(f.event(models.EventKeyRegistered, about(key))))
				}
				return err
			})
		}
		for size := 5; ; {
			page, now, err := f.Changes(t.Context(), at, size)
			require.NoError(t, err)
			require.True(t, slices.IsSortedFunc(page, func(a, b models.Change) int { return cmp.Compare(a.Tx, b.Tx) }))
			if len(page) < size {
				got = append(got, keyIDs(page)...)
				break
			}
			last := page[len(page)-1].Tx
			at = now.Before(last)
			got = append(got, keyIDs(slices.DeleteFunc(page, func(c models.Change) bool { return c.Tx == last }))...)
		}
		require.ElementsMatch(t, want, got, "each once")
	})
}

// A position from before a database was restored from a backup ends beyond the database's present position.
func TestAPositionFromTheFutureIsToldByTheOneOfNow(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.note("k")
		now := f.position()
		future := position.Position{Xmin: now.Xmin + 1000, Xmax: now.Xmax + 2000, Open: []int64{now.Xmax + 1500}}
		found, at, err := f.Changes(t.Context(), future, 10)
		require.NoError(t, err)
		require.Empty(t, found)
		require.Less(t, at.Xmax, future.Xmax)
		require.True(t, at.Contains(now.Xmax-1))
	})
}

// An event whose number the server has not reached was restored from another server.
func TestEventsOfAnotherServerAreNoChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{})
	f.note("before")
	at := f.position()
	require.NoError(t, models.Exec(t.Context(), f.Store, `INSERT INTO events (SELECT customer_id, project_id, scope_user_id, 'evt_restored', type, outcome, at, actor_user_id,
actor_method, actor_token_id, key_id, token_id, provider, member_id, role, source_ip, request_id, tx + 1000000000 FROM events LIMIT 1)`))
	require.Empty(t, f.changes(&at))
	f.note("after")
	require.Equal(t, []string{"after"}, keyIDs(f.changes(&at)))
	require.Less(t, at.Xmax, int64(1_000_000_000))
}

func TestChangesOfTransactionsThatCommitOutOfOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t, modelstest.EnginePostgres.MigratedURL(t), models.Options{})
	at := f.position()
	written, finish := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- f.Transact(context.WithoutCancel(t.Context()), func(tx *models.Tx) error {
			err := tx.AppendEvent(f.event(models.EventPolicySet, about("A")))
			close(written)
			<-finish
			return err
		})
	}()
	<-written
	f.note("B")
	require.Equal(t, []string{"B"}, keyIDs(f.changes(&at)), "B does not wait for A")
	require.NotEmpty(t, at.Open, "A is at work")
	text := at.String()
	require.Empty(t, f.changes(&at))
	close(finish)
	require.NoError(t, <-first)
	resumed, err := position.Parse(text)
	require.NoError(t, err)
	for _, from := range []position.Position{at, resumed} {
		require.Equal(t, []string{"A"}, keyIDs(f.changes(&from)), "A comes, and B not again")
		require.Empty(t, f.changes(&from))
	}
}

// An unrelated transaction stays open while 16 writers write and one reader follows them.
func TestChangesOfManyWritersComeOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.holdTransaction()
		at := f.position()
		var (
			mu        sync.Mutex
			committed = map[string]time.Time{}
			writers   sync.WaitGroup
		)
		for w := range 16 {
			writers.Go(func() {
				for i := range 20 {
					name := fmt.Sprintf("%d.%d", w, i)
					denied := func(e *models.Event) {
						if i%5 == 0 {
							e.Outcome = models.OutcomeDenied
						}
					}
					err := f.Transact(t.Context(), func(tx *models.Tx) error {
						err := tx.AppendEvent(f.event(models.EventPolicySet, about(name), denied))
						if i%7 == 0 {
							return errRefused
						}
						return err
					})
					if err == nil && i%5 != 0 {
						mu.Lock()
						committed[name] = time.Now()
						mu.Unlock()
					}
				}
			})
		}
		writing := make(chan struct{})
		go func() { defer close(writing); writers.Wait() }()
		seen := map[string]time.Time{}
		look := func() {
			for _, name := range keyIDs(f.changes(&at)) {
				require.Zero(t, seen[name], "%s came twice", name)
				seen[name] = time.Now()
			}
		}
		for done := false; !done; {
			select {
			case <-writing:
				done = true
			case <-time.After(time.Millisecond):
			}
			look()
		}
		require.Len(t, committed, 16*14)
		require.Len(t, seen, len(committed))
		var delays []time.Duration
		for name, at := range committed {
			require.NotZero(t, seen[name], name)
			delays = append(delays, seen[name].Sub(at))
		}
		slices.Sort(delays)
		require.Less(t, delays[len(delays)/2], 500*time.Millisecond, "delivery waited")
		require.Equal(t, f.isSQLite(), len(at.Open) == 0, "the unrelated transaction is open still")
	})
}

// After a crash, a server may reassign the last numbers that it assigned before the crash. In this test, these numbers
// had not reached the disk.
func TestACrashOfTheDatabaseMakesNoGap(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, "wal_writer_delay=10s", "autovacuum=off")
	f := newFixture(t, migrate(t, cluster.URL("postgres")), outage)
	dataPlane := f.dataPlane("eu", nil)
	f.note("before")
	for range 50 { // transactions that do not wait for the disk
		require.NoError(t, f.RecordFetch(t.Context(), models.FetchRecord{DataPlaneID: dataPlane.ID, CustomerID: acme, ProjectID: web}))
	}
	at := f.position()
	key := f.register(f.shared(olga))
	fetched := f.position()
	for range 50 {
		require.NoError(t, f.RecordFetch(t.Context(), models.FetchRecord{DataPlaneID: dataPlane.ID, CustomerID: acme, ProjectID: web}))
	}
	crashed := f.position()
	require.NoError(t, cluster.Kill())
	require.NoError(t, cluster.Start())
	f.Store = modelstest.OpenStore(t, f.url, outage) // the connections of the previous store are dead
	f.revoke(&key)
	f.note("after")
	require.Equal(t, []string{key.ID, key.ID, "after"}, keyIDs(f.changes(&at)))
	for _, p := range []position.Position{fetched, crashed} {
		require.False(t, p.Contains(key.RevocationTx))
		require.Equal(t, []string{key.ID, "after"}, keyIDs(f.changes(&p)))
	}
}

func TestARevocationHasTheNumberOfItsEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 40
		keys := make([]models.Key, n)
		for i := range keys {
			keys[i] = f.register(f.own(mia))
		}
		at := f.position()
		for i, err := range together(2*n, func(i int) error {
			if i%2 == 1 { // other writers, whose writes are in the same groups
				return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.AppendEvent(f.event(models.EventPolicySet)) })
			}
			return f.tryRevoke(t.Context(), &keys[i/2])
		}) {
			require.NoError(t, err, i)
		}
		number := map[string]int64{}
		for _, c := range f.changes(&at) {
			if c.Type == models.EventKeyRevoked {
				require.Zero(t, number[c.KeyID])
				number[c.KeyID] = c.Tx
			}
		}
		require.Len(t, number, n)
		for _, k := range keys {
			stands, err := f.GetKey(t.Context(), mia, k.ID, now())
			require.NoError(t, err)
			require.Equal(t, number[k.ID], stands.RevocationTx)
			require.Equal(t, stands.RevocationTx, k.RevocationTx)
		}
		again := keys[0]
		f.transact(func(tx *models.Tx) error {
			first, err := tx.RevokeKey(&again, "moe", f.event(models.EventKeyRevoked))
			require.False(t, first)
			return err
		})
		require.Equal(t, keys[0], again, "the first revocation stands")
	})
}

// The newest event ends a position, so that a crashed server that reassigns later numbers leaves no gap.
func TestAPositionEndsWithTheNewestEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.position()
		f.addMember(moe, models.RoleOwner) // a transaction without an event
		require.Equal(t, at.Xmax, f.position().Xmax)
		k := f.register(f.shared(olga))
		f.revoke(&k)
		after := f.position()
		require.Equal(t, k.RevocationTx+1, after.Xmax)
		require.True(t, after.Contains(k.RevocationTx))
		require.False(t, at.Contains(k.RevocationTx))
		require.False(t, slices.ContainsFunc(after.Open, func(tx int64) bool { return tx >= after.Xmax }), fmt.Sprint(after))
	})
}

// openStream opens a stream of a data plane at a replica, from the present position on.
func (f *fixture) openStream(id string, d models.DataPlane, replica, previous string, changes ...func(*models.Stream)) {
	f.t.Helper()
	at := f.position()
	s := models.Stream{ID: id, DataPlaneID: d.ID, ReplicaID: replica, MaxStaleMs: 100, Position: at.String(), Settled: at.Xmin}
	for _, change := range changes {
		change(&s)
	}
	require.NoError(f.t, f.OpenStream(f.t.Context(), s, previous))
}

// streams returns the ids of all streams.
func (f *fixture) streams() []string {
	f.t.Helper()
	return query[string](f.t, models.Conn(f.Store), "SELECT id FROM streams ORDER BY id")
}

func (f *fixture) receipts(k models.Key) (receipts []models.Receipt, unheard int) {
	f.t.Helper()
	receipts, names, err := f.Receipts(f.t.Context(), k.Stop())
	require.NoError(f.t, err)
	return receipts, len(names)
}

func TestOpenStreamReplacesItsPrevious(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		eu, us := f.dataPlane("eu", nil), f.dataPlane("us", nil)
		f.openStream("1", eu, "r1", "")
		f.openStream("2", us, "r1", "")
		f.openStream("3", eu, "r2", "1")
		require.Equal(t, []string{"2", "3"}, f.streams())
		f.openStream("4", eu, "r2", "2")
		require.Equal(t, []string{"2", "3", "4"}, f.streams(), "another's stream stays")
		f.openStream("5", eu, "r2", "absent")
		f.openStream("6", eu, "r2", "")
		require.Equal(t, []string{"2", "3", "4", "5", "6"}, f.streams(), "a data plane may have several")
		err := f.OpenStream(t.Context(), models.Stream{ID: "6", DataPlaneID: eu.ID, ReplicaID: "r1"}, "5")
		require.ErrorIs(t, err, models.ErrAlreadyExists)
		require.Contains(t, f.streams(), "5", "what fails takes no place")
		require.Error(t, f.OpenStream(t.Context(), models.Stream{ID: "7", DataPlaneID: "absent"}, ""))
	})
}

func TestStreamsAreDroppedByTheirIDs(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		eu := f.dataPlane("eu", nil)
		for i := range 5 {
			f.openStream(strconv.Itoa(i), eu, "r1", "")
		}
		require.NoError(t, f.DropStreams(t.Context(), []string{"1", "3", "absent"}))
		require.Equal(t, []string{"0", "2", "4"}, f.streams())
		require.NoError(t, f.DropStreams(t.Context(), nil))
		require.Equal(t, []string{"0", "2", "4"}, f.streams())
	})
}

func TestLongestStale(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		requireLongest := func(want int) {
			t.Helper()
			longest, err := f.LongestStale(t.Context(), acme)
			require.NoError(t, err)
			require.Equal(t, want, longest)
		}
		requireLongest(0)
		eu := f.dataPlane("eu", nil)
		for i, ms := range []int{0, 5000, 300} {
			require.NoError(t, f.OpenStream(t.Context(), models.Stream{ID: strconv.Itoa(i), DataPlaneID: eu.ID, MaxStaleMs: ms}, ""))
		}
		others := models.Stream{ID: "9", DataPlaneID: f.dataPlane("globex", []string{"globex"}).ID, MaxStaleMs: 9000}
		require.NoError(t, f.OpenStream(t.Context(), others, ""))
		requireLongest(5000)
		require.NoError(t, f.DropStreams(t.Context(), []string{"1"}))
		requireLongest(300)
	})
}

func TestTakeForwardedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		eu, us := f.dataPlane("eu", nil), f.dataPlane("us", nil)
		f.openStream("1", eu, "r1", "")
		f.openStream("2", eu, "r1", "")
		f.openStream("3", us, "r2", "")
		at := position.Position{Xmin: 5, Xmax: 9, Open: []int64{5, 7}}
		take := func(replica string) map[string]string {
			taken, err := f.TakeForwarded(t.Context(), replica)
			require.NoError(t, err)
			out := map[string]string{}
			for _, s := range taken {
				require.Equal(t, replica, s.ReplicaID)
				out[s.ID] = s.Forwarded
			}
			return out
		}
		require.Empty(t, take("r1"))
		for id, d := range map[string]models.DataPlane{"absent": eu, "3": eu, "1": us} {
			require.ErrorIs(t, f.ForwardAcknowledgement(t.Context(), id, d.ID, at, nil), models.ErrNotFound, "%s of %s", id, d.Name)
		}
		require.NoError(t, f.ForwardAcknowledgement(t.Context(), "1", eu.ID, at, nil))
		require.Empty(t, take("r2"), "it is another's")
		require.Equal(t, map[string]string{"1": "5:9:5,7"}, take("r1"))
		require.Empty(t, take("r1"))
	})
}

func TestRequestsInFlightAreForwardedTogether(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		eu := f.dataPlane("eu", nil)
		f.openStream("1", eu, "r1", "")
		at := position.Position{Xmin: 5, Xmax: 5}
		forward := func(counts map[string]int) {
			t.Helper()
			require.NoError(t, f.ForwardAcknowledgement(t.Context(), "1", eu.ID, at, counts))
		}
		requireTaken := func(want map[string]int) {
			t.Helper()
			taken, err := f.TakeForwarded(t.Context(), "r1")
			require.NoError(t, err)
			require.Len(t, taken, 1)
			require.Equal(t, want, taken[0].InFlight())
		}
		forward(map[string]int{"k1": 3, "k2": 0})
		forward(nil)
		forward(map[string]int{"k3": 1})
		requireTaken(map[string]int{"k1": 3, "k2": 0, "k3": 1})
		forward(nil)
		requireTaken(map[string]int{})
		many := map[string]int{}
		for i := range 500 {
			many[fmt.Sprintf("byok_%026d", i)] = i
		}
		for range 20 { // while nobody takes the forwarded position
			forward(many)
		}
		taken, err := f.TakeForwarded(t.Context(), "r1")
		require.NoError(t, err)
		require.Equal(t, many, taken[0].InFlight())
		require.Less(t, len(taken[0].ForwardedInFlight), 100_000, "it is bounded")
	})
}

// Positions are forwarded one after another, and taken at the same time. The last one must not be lost.
func TestNoForwardedAcknowledgementIsLostToOneThatIsTaken(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const last = 40
		eu := f.dataPlane("eu", nil)
		f.openStream("1", eu, "r1", "")
		var done atomic.Bool
		var taken []string
		errs := together(2, func(i int) error {
			if i == 0 {
				defer done.Store(true)
				for n := int64(1); n <= last; n++ {
					if err := f.ForwardAcknowledgement(t.Context(), "1", eu.ID, position.Position{Xmin: n, Xmax: n}, nil); err != nil {
						return err
					}
				}
				return nil
			}
			for ended := false; !ended; {
				ended = done.Load() // so that it looks once more after the last position
				streams, err := f.TakeForwarded(t.Context(), "r1")
				if err != nil {
					return err
				}
				for _, s := range streams {
					taken = append(taken, s.Forwarded)
				}
			}
			return nil
		})
		require.NoError(t, errs[0])
		require.NoError(t, errs[1])
		require.Equal(t, "40:40:", taken[len(taken)-1])
		require.Len(t, slices.Compact(slices.Clone(taken)), len(taken), "each once")
		left, err := f.TakeForwarded(t.Context(), "r1")
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

func TestDeadReplicasAreDeletedWithTheirStreams(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		eu := f.dataPlane("eu", nil)
		requireReplicas := func(want ...models.Replica) {
			t.Helper()
			all, err := f.Replicas(t.Context())
			require.NoError(t, err)
			require.ElementsMatch(t, want, all)
		}
		requireReplicas()
		for _, err := range together(8, func(int) error { return f.RecordHeartbeat(t.Context(), "r1") }) {
			require.NoError(t, err)
		}
		require.NoError(t, f.RecordHeartbeat(t.Context(), "r2"))
		f.openStream("1", eu, "r1", "")
		f.openStream("2", eu, "r3", "")
		r1, r2, r3 := models.Replica{ID: "r1", Heartbeats: 8}, models.Replica{ID: "r2", Heartbeats: 1}, models.Replica{ID: "r3"}
		requireReplicas(r1, r2, r3)

		require.NoError(t, f.OpenStream(t.Context(), models.Stream{ID: "3", DataPlaneID: eu.ID, ReplicaID: "r1", MaxStaleMs: 5000}, ""))
		require.NoError(t, f.DeleteDeadReplica(t.Context(), r1, 100))
		require.Equal(t, []string{"2", "3"}, f.streams(), "the lease of 3 may run still")
		requireReplicas(r1, r2, r3)
		for _, dead := range []models.Replica{r1, r3, r3, {ID: "absent"}} {
			require.NoError(t, f.DeleteDeadReplica(t.Context(), dead, 5000))
		}
		require.Empty(t, f.streams())
		requireReplicas(r2)
		require.NoError(t, f.RecordHeartbeat(t.Context(), "r1"))
		requireReplicas(models.Replica{ID: "r1", Heartbeats: 1}, r2)
	})
}

// A slow replica stores a heartbeat after another replica has found it dead, and before the other replica deletes it.
func TestAReplicaThatHeartbeatsIsNotDeleted(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		eu := f.dataPlane("eu", nil)
		require.NoError(t, f.RecordHeartbeat(t.Context(), "slow"))
		for _, id := range []string{"slow", "silent"} { // silent has a stream and no heartbeat
			f.openStream(id, eu, id, "")
		}
		found, err := f.Replicas(t.Context())
		require.NoError(t, err)
		for _, r := range found {
			require.NoError(t, f.RecordHeartbeat(t.Context(), r.ID))
			require.NoError(t, f.DeleteDeadReplica(t.Context(), r, 5000))
		}
		require.Equal(t, []string{"silent", "slow"}, f.streams())
		alive, err := f.Replicas(t.Context())
		require.NoError(t, err)
		require.Equal(t, []models.Replica{{ID: "silent", Heartbeats: 1}, {ID: "slow", Heartbeats: 2}}, alive)
	})
	t.Run("nor while the deletion is under way", func(t *testing.T) {
		each(t, func(t *testing.T, f *fixture) {
			const rounds = 50
			eu := f.dataPlane("eu", nil)
			for i := range rounds {
				id := strconv.Itoa(i)
				f.openStream(id, eu, id, "")
				errs := together(2, func(side int) error {
					if side == 0 {
						return f.DeleteDeadReplica(t.Context(), models.Replica{ID: id}, 5000)
					}
					return f.RecordHeartbeat(t.Context(), id)
				})
				require.NoError(t, errors.Join(errs...))
			}
			all, err := f.Replicas(t.Context())
			require.NoError(t, err)
			require.Len(t, all, rounds, "each comes back with its heartbeat, or keeps its stream")
			for _, r := range all {
				require.EqualValues(t, 1, r.Heartbeats)
			}
		})
	})
}

func TestReceiptsAreStoredInPlaceOfEarlierOnes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		require.NoError(t, f.SaveReceipts(t.Context(), nil))
		first := []models.Receipt{
			{StopID: "k1", ReplicaID: "r1", DataPlanes: 3, Acknowledged: 1, SlowestUs: 900},
			{StopID: "k1", ReplicaID: "r2", DataPlanes: 2},
			{StopID: "k2", ReplicaID: "r1", DataPlanes: 1, Acknowledged: 1},
		}
		require.NoError(t, f.SaveReceipts(t.Context(), first))
		later := models.Receipt{
			StopID: "k1", ReplicaID: "r1", DataPlanes: 3, Acknowledged: 3, SlowestUs: 4000, Counted: 2, InFlight: 7,
			ByDataPlane: []models.DataPlaneReceipt{{Name: "eu", Acknowledged: 2, Counted: 2, InFlight: 7}, {Name: "us", Acknowledged: 1}},
		}
		another := models.Receipt{StopID: "k3", ReplicaID: "r1"}
		require.NoError(t, f.SaveReceipts(t.Context(), []models.Receipt{later, another}))
		got, unheard := f.receipts(models.Key{ID: "k1", RevokedAt: 1})
		require.ElementsMatch(t, []models.Receipt{later, first[1]}, got)
		require.Zero(t, unheard)
		got, _ = f.receipts(models.Key{ID: "k3", RevokedAt: 1})
		require.Equal(t, []models.Receipt{another}, got)
		require.Equal(t, 4, f.count("receipts"))
	})
}

func TestAReceiptCountsTheStreamsThatMayNotHaveHeard(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.holdTransaction() // a long transaction holds xmin back
		all, ours := f.dataPlane("all", nil), f.dataPlane("ours", []string{"globex", acme})
		others, none := f.dataPlane("others", []string{"globex"}), f.dataPlane("none", []string{})
		key := f.register(f.shared(olga))
		requireUnheard := func(want int) {
			t.Helper()
			_, unheard := f.receipts(key)
			require.Equal(t, want, unheard)
		}
		f.openStream("1", all, "r1", "")
		f.openStream("2", ours, "r1", "")
		f.openStream("3", all, "r2", "")
		f.openStream("4", others, "r2", "")
		f.openStream("5", none, "r2", "")
		requireUnheard(0) // nothing was revoked
		before := f.position()
		f.revoke(&key)
		requireUnheard(3)
		f.openStream("6", all, "r3", "")
		requireUnheard(3)
		late := models.Stream{ID: "7", DataPlaneID: all.ID, ReplicaID: "r3", Position: before.String(), Settled: before.Xmin}
		require.NoError(t, f.OpenStream(t.Context(), late, ""))
		requireUnheard(4) // stream 4 resumed before the revocation
		require.NoError(t, f.SaveReceipts(t.Context(), []models.Receipt{{StopID: key.ID, ReplicaID: "r1", DataPlanes: 2}, {StopID: "another", ReplicaID: "r2"}}))
		requireUnheard(2)
		f.openStream("8", all, "r4", "3") // continued at another replica, after the revocation
		requireUnheard(1)
		require.NoError(t, f.DropStreams(t.Context(), []string{"7"}))
		requireUnheard(0)
		receipts, _ := f.receipts(key)
		require.Equal(t, []models.Receipt{{StopID: key.ID, ReplicaID: "r1", DataPlanes: 2}}, receipts)
	})
}

func TestEveryKindOfWriteWakesTheWatcherOfItsStore(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		w, _ := watch(t, f.Store)
		key := f.register(f.shared(olga))
		for name, write := range map[string]func(){
			"register": func() { f.register(f.shared(olga)) },
			"revoke":   func() { f.revoke(&key) },
			"event":    func() { f.note("k") },
		} {
			require.True(t, w.wakes(soon, write), name)
		}
	})
}

func TestWatchIsWokenForEarlierCommits(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.note("k")
		w, _ := watch(t, f.Store)
		require.Eventually(t, func() bool { return len(w) == 1 }, soon, time.Millisecond)
	})
}

func TestCommitWakesWatchersOfOtherStores(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrate(t, modelstest.Postgres(t)), models.Options{})
	writer := open(t, f.url, models.Options{})
	w, _ := watch(t, f.Store)
	watch(t, writer.Store) // a store that is watched notifies the others
	f.awaitListening(2)
	for range 5 {
		var at time.Time
		require.True(t, w.wakes(soon, func() { writer.note("k"); at = time.Now() }))
		t.Logf("woken after %s", time.Since(at))
	}
}

// A full pool delays no wake-ups, neither by its own store nor by others.
func TestABusyPoolDelaysNoWakeUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrate(t, modelstest.Postgres(t)), models.Options{})
	busy := modelstest.OpenStore(t, f.url, models.Options{MaxConns: 3})
	w, _ := watch(t, busy)
	f.awaitListening(1)
	for range 3 {
		tx, err := models.Conn(busy).BeginTx(t.Context(), nil)
		require.NoError(t, err)
		t.Cleanup(func() { _ = tx.Rollback() })
	}
	for range 5 {
		require.True(t, w.wakes(soon, func() { models.Wake(busy) }))
	}
	watch(t, f.Store)
	require.True(t, w.wakes(soon, func() { f.note("k") }))
}

func TestAWatcherThatLosesItsConnectionListensAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, migrate(t, modelstest.Postgres(t)), models.Options{})
	writer := open(t, f.url, models.Options{})
	w, _ := watch(t, f.Store)
	watch(t, writer.Store)
	f.awaitListening(2)
	for range 2 {
		require.True(t, w.wakes(again, func() {
			require.NoError(t, models.Exec(t.Context(), f.Store, `SELECT pg_terminate_backend(pid, 5000) `+listeners))
		}), "listening again wakes: something may have been missed")
		f.awaitListening(2)
		require.True(t, w.wakes(soon, func() { writer.note("k") }))
	}
}

func TestAWatcherSurvivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t)
	url := cluster.URL("postgres")
	writer := newFixture(t, migrate(t, url), outage)
	w, _ := watch(t, modelstest.OpenStore(t, url, outage))
	watch(t, writer.Store)
	require.True(t, w.wakes(soon, func() { writer.note("k") }))
	require.NoError(t, cluster.Stop(modelstest.Fast))
	require.True(t, w.wakes(again, func() { require.NoError(t, cluster.Start()) }))
	writer.requireRecovers()
	require.Eventually(t, func() bool {
		return w.wakes(100*time.Millisecond, func() { writer.note("k") })
	}, again, time.Millisecond)
}

// A firewall that forgets a connection tells neither end of the connection.
func TestAWatcherFindsOutThatTheNetworkForgotItsConnection(t *testing.T) {
	t.Parallel()
	url := modelstest.EnginePostgres.URL(t)
	proxy := newWireProxy(t, url)
	store := modelstest.OpenStore(t, proxy.url, models.Options{Timeout: 500 * time.Millisecond})
	w, _ := watch(t, store)
	require.Eventually(t, func() bool { return len(w) == 1 }, soon, time.Millisecond, "it listens")
	proxy.stranded.Store(proxy.accepted.Load() + 1) // new connections work
	accepted := proxy.accepted.Load()
	require.Eventually(t, func() bool { return proxy.accepted.Load() > accepted }, again, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		return w.wakes(100*time.Millisecond, func() {
			require.NoError(t, models.Exec(t.Context(), modelstest.OpenStore(t, url, models.Options{}), "SELECT pg_notify('aikeys_changes', 'other')"))
		})
	}, again, time.Millisecond)
	proxy.thaw()
}

func TestWatchingEndsWithItsContextAndLeavesNothing(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.MigratedURL(t)
		before := goleak.IgnoreCurrent()
		f := newFixture(t, url, models.Options{})
		w, stop := watch(t, f.Store)
		require.True(t, w.wakes(soon, func() { f.note("k") }))
		stop()
		require.NoError(t, f.Close())
		require.NoError(t, goleak.Find(before))
	})
}

func TestAWatcherWithoutADatabaseEndsWithItsContext(t *testing.T) {
	store := modelstest.OpenStore(t, "postgres://nobody@127.0.0.1:1/none", models.Options{})
	_, stop := watch(t, store)
	stop()
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
			ended <- f.Watch(ctx, func() { // a reader that is held up while the writers write
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

func TestEventsArePagedNewestFirstToThoseWhoMayReadThem(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var everybodys, mias []string
		for range 4 {
			shared, own := f.shared(olga), f.own(mia)
			f.register(shared)
			f.register(own)
			f.register(f.own(moe))
			everybodys = append([]string{shared.Event.ID}, everybodys...)
			mias = append([]string{own.Event.ID, shared.Event.ID}, mias...)
		}
		f.transact(func(tx *models.Tx) error {
			return tx.AppendEvent(models.Event{CustomerID: acme, ProjectID: "ios", ID: f.ids.Next(models.EventIDPrefix, time.Now())})
		})
		events := func(c models.Caller, size int) (seen []string) { // in all pages
			for before := ""; ; before = seen[len(seen)-1] {
				page, err := f.ListEvents(t.Context(), c, models.EventFilter{}, before, size)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page), size)
				if len(page) == 0 {
					return seen
				}
				for _, e := range page {
					seen = append(seen, e.ID)
				}
			}
		}
		for _, size := range []int{1, 3, 100} {
			require.Equal(t, mias, events(mia, size), "page size %d", size)
			require.Equal(t, everybodys, events(olga, size), "page size %d", size)
		}
		require.Empty(t, events(models.Caller{CustomerID: "globex", ProjectID: web, UserID: "mia"}, 3))
	})
}

func TestEventFilters(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		events := []models.Event{
			{KeyID: "byok_1", ActorUserID: "olga", Provider: "openai", Type: models.EventKeyRegistered, Outcome: models.OutcomeAllowed},
			{KeyID: "byok_2", ActorUserID: "mia", Provider: "groq", Type: models.EventKeyRegistered, Outcome: models.OutcomeDenied},
			{KeyID: "byok_1", ActorUserID: "olga", Provider: "openai", Type: models.EventKeyRevoked, Outcome: models.OutcomeAllowed},
			{ActorUserID: "olga", Type: models.EventPolicySet, Outcome: models.OutcomeAllowed},
		}
		start := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
		f.transact(func(tx *models.Tx) error {
			var err error
			for i := range events {
				at := start.Add(time.Duration(i) * time.Minute)
				events[i].CustomerID, events[i].ProjectID = acme, web
				events[i].ID, events[i].At = f.ids.Next(models.EventIDPrefix, at), at.UnixMicro()
				err = errors.Join(err, tx.AppendEvent(events[i]))
			}
			return err
		})
		minute := func(n int) int64 { return start.Add(time.Duration(n) * time.Minute).UnixMicro() }
		for name, c := range map[string]struct {
			filter models.EventFilter
			want   []int // newest first
		}{
			"none":                  {models.EventFilter{}, []int{3, 2, 1, 0}},
			"key":                   {models.EventFilter{KeyID: "byok_1"}, []int{2, 0}},
			"actor":                 {models.EventFilter{Actor: "mia"}, []int{1}},
			"provider":              {models.EventFilter{Provider: "openai"}, []int{2, 0}},
			"type":                  {models.EventFilter{Type: models.EventKeyRegistered}, []int{1, 0}},
			"outcome":               {models.EventFilter{Outcome: models.OutcomeDenied}, []int{1}},
			"from, which counts":    {models.EventFilter{From: minute(2)}, []int{3, 2}},
			"to, which does not":    {models.EventFilter{To: minute(2)}, []int{1, 0}},
			"from and to":           {models.EventFilter{From: minute(1), To: minute(3)}, []int{2, 1}},
			"a moment later":        {models.EventFilter{From: minute(2) + 1}, []int{3}},
			"a time after the last": {models.EventFilter{From: 1 << 62}, nil},
			"all of them":           {models.EventFilter{KeyID: "byok_1", Actor: "olga", Provider: "openai", Type: models.EventKeyRevoked, Outcome: models.OutcomeAllowed, From: minute(0), To: minute(3)}, []int{2}},
		} {
			found, err := f.ListEvents(t.Context(), olga, c.filter, "", 10)
			require.NoError(t, err, name)
			require.Len(t, found, len(c.want), name)
			for i, want := range c.want {
				require.Equal(t, events[want].ID, found[i].ID, name)
			}
		}
		page, err := f.ListEvents(t.Context(), olga, models.EventFilter{KeyID: "byok_1"}, events[2].ID, 10)
		require.NoError(t, err)
		require.Len(t, page, 1)
		require.Equal(t, events[0].ID, page[0].ID, "the second page")
	})
}
