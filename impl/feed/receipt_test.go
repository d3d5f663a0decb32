package feed_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// lease is short where a test waits for its end.
const lease = 600 * time.Millisecond

// member is a data plane with its stream.
type member struct {
	*conn

	id string
	at *replica
}

func (r *replica) join(q request) *member {
	r.w.t.Helper()
	if q.dataPlane == "" {
		q.dataPlane = r.w.dataPlane().ID
	}
	return &member{r.connect(q), q.dataPlane, r}
}

// hear waits until the data plane has been told of a key's revocation and what to acknowledge.
func (m *member) hear(k models.Key) message {
	m.t.Helper()
	revoked := false
	return m.await("the revocation and a heartbeat", func(got message) bool {
		revoked = revoked || about(k.ID)(got) && got.Type == "key.revoked"
		return revoked && got.Type == "heartbeat"
	})
}

// heed acknowledges a key's revocation at a replica once the data plane has heard of it.
func (m *member) heed(k models.Key, at *replica) {
	m.t.Helper()
	at.acknowledge(m.id, m.conn, m.hear(k).id)
}

func TestARevocationThatNobodyHasToHearOfIsCompleteAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: time.Minute})
		r.join(request{dataPlane: w.dataPlane("globex").ID})
		k := r.revoke()
		require.Equal(t, feed.Receipt{Complete: true}, r.receipt(k))
		require.Equal(t, feed.Receipt{Complete: true}, r.receipt(w.key()), "not revoked at all")
	})
}

func TestARevocationIsCompleteWhenAllHaveAcknowledgedIt(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: time.Minute})
		var all []*member
		for range 3 {
			all = append(all, r.join(request{dataPlane: w.dataPlane(acme).ID}))
		}
		k := r.revoke()
		waited := make(chan feed.Receipt)
		go func() { got, _ := r.WaitForReceipt(t.Context(), k, patience); waited <- got }()
		for i, m := range all {
			require.False(t, r.receipt(k).Complete)
			if i == 2 {
				time.Sleep(50 * time.Millisecond)
			}
			m.heed(k, r)
			m.heed(k, r) // twice is once
		}
		got := <-waited
		require.True(t, got.Complete)
		require.Equal(t, 3, got.DataPlanes)
		require.Equal(t, 3, got.Acknowledged)
		require.GreaterOrEqual(t, got.Slowest, 50*time.Millisecond)
		require.Less(t, got.Slowest, patience)
		require.Zero(t, got.Remaining)
	})
}

func TestAnAcknowledgementOfAnEarlierPositionIsNone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: time.Minute})
		m := r.join(request{})
		before := m.last()
		k := r.revoke()
		m.hear(k)
		r.acknowledge(m.id, m.conn, before)
		time.Sleep(100 * time.Millisecond)
		require.False(t, r.receipt(k).Complete)
		position, err := models.ParsePosition(m.last())
		require.NoError(t, err)
		require.ErrorIs(t, r.Acknowledge(t.Context(), w.dataPlane().ID, m.session(), position), models.ErrNotFound, "another's stream")
		require.ErrorIs(t, r.Acknowledge(t.Context(), m.id, w.ids.Next("", time.Now()), position), models.ErrNotFound)
		require.False(t, r.receipt(k).Complete)
	})
}

func TestWithOneSilentARevocationIsPendingUntilTheLeaseHasRunOut(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: lease})
		all := []*member{r.join(request{}), r.join(request{}), r.join(request{})}
		k := r.revoke()
		revoked := time.Now()
		all[0].heed(k, r)
		all[1].heed(k, r)
		short := r.await(k, 100*time.Millisecond)
		require.False(t, short.Complete)
		require.Positive(t, short.Remaining)
		require.LessOrEqual(t, short.Remaining, lease)
		got := r.await(k, patience)
		require.True(t, got.Complete)
		require.GreaterOrEqual(t, time.Since(revoked), lease-10*time.Millisecond, "it was committed a moment before")
		require.Equal(t, 3, got.DataPlanes)
		require.Equal(t, 2, got.Acknowledged)
		require.Zero(t, got.Remaining)
	})
}

func TestReceiptsWaitForDeclaredStaleness(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: lease})
		stale := r.join(request{maxStale: time.Minute})
		k := r.revoke()
		got := r.receipt(k)
		require.False(t, got.Complete)
		require.Greater(t, got.Remaining, 55*time.Second)
		require.LessOrEqual(t, got.Remaining, time.Minute+lease)
		stale.heed(k, r)
		require.True(t, r.await(k, patience).Complete)

		stale.cut()
		w.eventually("the stream ends", func() bool { return feed.Streams(r.Feed) == 0 })
		k = r.revoke()
		r.join(request{dataPlane: w.dataPlane("globex").ID})
		got = r.await(k, 2*lease)
		require.False(t, got.Complete, "it left a moment ago, and serves on")
		require.Equal(t, 1, got.DataPlanes)
		require.Greater(t, got.Remaining, 50*time.Second)

		back := r.join(request{dataPlane: stale.id, previous: stale.session(), resume: stale.last(), maxStale: time.Minute})
		require.False(t, r.receipt(k).Complete, "it has yet to act on it")
		back.heed(k, r)
		got = r.await(k, patience)
		require.True(t, got.Complete)
		require.Equal(t, 1, got.DataPlanes)

		k = r.revoke()
		back.heed(k, r)
		got = r.await(k, patience)
		require.True(t, got.Complete)
		require.Equal(t, 1, got.DataPlanes, "the stream that was carried on counts no more")
	})
}

func TestAnAcknowledgementThatArrivesAfterItsStreamWasCutCounts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: time.Minute})
		m := r.join(request{})
		k := r.revoke()
		m.hear(k)
		m.cut()
		w.eventually("the stream ends", func() bool { return feed.Streams(r.Feed) == 0 })
		m.heed(k, r)
		require.True(t, r.await(k, patience).Complete)
	})
}

func TestAcknowledgementsMayReachAnyReplicaAndAllReplicasAnswerTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	all := w.replicas(3, options{lease: time.Minute})
	members := []*member{all[0].join(request{}), all[1].join(request{}), all[1].join(request{})}
	k := all[2].revoke()
	for i, m := range members {
		for _, r := range all {
			require.False(t, r.receipt(k).Complete)
		}
		m.heed(k, all[(i+1)%3])
	}
	for _, r := range all {
		got := r.await(k, patience)
		require.True(t, got.Complete)
		require.Equal(t, 3, got.DataPlanes)
		require.Equal(t, 3, got.Acknowledged)
		require.Equal(t, all[0].receipt(k), r.receipt(k))
	}
}

func TestAKilledReplicaKeepsReceiptsPendingNoLongerThanTheBoundAndIsBuried(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	hasty := options{lease: lease, house: 50 * time.Millisecond, grace: 500 * time.Millisecond}
	killed, left := w.replica(hasty), w.replica(hasty)
	killed.join(request{})
	fine := left.join(request{})
	killed.kill()
	k := left.revoke()
	fine.heed(k, left)
	got := left.await(k, 100*time.Millisecond)
	require.False(t, got.Complete, "who lost the killed one has a lease still")
	require.Equal(t, 2, got.DataPlanes)
	got = left.await(k, patience)
	require.True(t, got.Complete)
	require.Equal(t, 1, got.Acknowledged)
	w.eventually("its rows are gone", func() bool {
		replicas, err := w.store.Replicas(t.Context())
		require.NoError(t, err)
		return len(replicas) == 1
	})
	k = left.revoke()
	fine.heed(k, left)
	got = left.await(k, patience)
	require.True(t, got.Complete)
	require.Equal(t, 1, got.DataPlanes)
}

// A data plane that leaves a dead replica with a lease counts until it has acted on what the dead one did not tell it: its next
// replica has read the revocation before it came.
func TestWhoComesFromADeadReplicaCountsForRevocationsThatTheNewOneHasRead(t *testing.T) {
	t.Parallel()
	for name, others := range map[string]int{"with others at the new one": 1, "alone": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, modelstest.EnginePostgres)
			dead, next := w.replica(options{lease: time.Minute}), w.replica(options{lease: time.Minute})
			m := dead.join(request{})
			dead.kill()
			var steady []*member
			for range others {
				steady = append(steady, next.join(request{}))
			}
			k := next.revoke()
			for _, s := range steady {
				s.heed(k, next)
			}
			w.eventually("the new one has read it", func() bool { return feed.Holds(next.Feed, k.RevocationTx) })
			require.False(t, next.receipt(k).Complete)
			back := next.join(request{dataPlane: m.id, previous: m.session(), resume: m.last()})
			for range 20 {
				require.False(t, next.receipt(k).Complete)
				time.Sleep(5 * time.Millisecond)
			}
			back.heed(k, next)
			got := next.await(k, patience)
			require.True(t, got.Complete)
			require.Equal(t, others+1, got.DataPlanes)
			require.Equal(t, others+1, got.Acknowledged)
		})
	}
}

// A replica that starts while the database is away for longer than a lease knows nothing of what happened meanwhile.
func TestAReplicaThatStartedBeforeItsDatabaseCountsFromItsFirstRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	k := w.key()
	w.execute("ALTER TABLE events RENAME TO events_away")
	young := w.start(options{lease: lease})
	time.Sleep(lease + 100*time.Millisecond) // more than a lease since it was made
	require.False(t, feed.Ready(young.Feed))
	w.execute(`INSERT INTO data_planes (id, name, hash, customers, created_at) VALUES ('dp', 'dp', 'x', 'null', 1)`)
	w.execute(`INSERT INTO streams (id, data_plane_id, replica_id, max_stale_ms, settled, position)
VALUES ('s', 'dp', 'killed a moment ago', 0, 1, '1:1:')`)
	w.execute(`DO $$ BEGIN
ALTER TABLE events_away RENAME TO events;
UPDATE ai_keys SET revoked_at = 1, revocation_tx = pg_current_xact_id()::text::bigint;
UPDATE events SET type = 'key.revoked', tx = pg_current_xact_id()::text::bigint;
END $$`)
	k, err := w.store.GetKey(t.Context(), models.Caller{CustomerID: acme, ProjectID: "web", UserID: "olga"}, k.ID, time.Now().UnixMicro())
	require.NoError(t, err)
	require.NotZero(t, k.RevocationTx)
	w.eventually("it reads", func() bool { return feed.Ready(young.Feed) })
	got := young.receipt(k)
	require.False(t, got.Complete)
	require.Positive(t, got.Remaining)
	require.True(t, young.await(k, patience).Complete)
}

func TestARestartedReplicaTakesPendingRevocationsForCompleteAfterItsOwnBound(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: lease})
		r.join(request{})
		k := r.revoke()
		require.False(t, r.receipt(k).Complete)
		r.kill()
		time.Sleep(lease) // by the old one's reckoning it is complete
		began := time.Now()
		again := w.replica(options{lease: lease})
		require.False(t, again.receipt(k).Complete)
		require.True(t, again.await(k, patience).Complete)
		require.GreaterOrEqual(t, time.Since(began), lease)
	})
}

// A replica whose beats don't arrive is taken for dead, and its streams off the books; they must not go on.
func TestStreamsOfAReplicaThatMayHaveBeenBuriedEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	hasty := options{lease: lease, house: 50 * time.Millisecond, grace: 500 * time.Millisecond,
		store: modelstest.OpenStore(t, w.url, models.Options{Timeout: 300 * time.Millisecond})}
	numb := w.replica(hasty)
	hasty.store = nil
	other := w.replica(hasty)
	m := numb.join(request{})
	w.execute("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no beats'; END $$")
	w.execute("CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON replicas FOR EACH ROW EXECUTE FUNCTION refuse()")
	w.eventually("it is buried", func() bool {
		replicas, err := w.store.Replicas(t.Context())
		require.NoError(t, err)
		return len(replicas) == 0
	})
	k := other.revoke()
	last := m.await("the revocation, without a heartbeat", about(k.ID))
	var leaseEnd time.Time
	for _, got := range m.all() {
		if got.Type == "heartbeat" {
			leaseEnd = m.when(*got.ClockMs).Add(lease)
		}
	}
	require.False(t, leaseEnd.IsZero())
	require.True(t, leaseEnd.Before(last.at), "its last heartbeat was long before it was buried")
	w.execute("DROP TRIGGER refuse ON replicas")
	m.awaitEnd()
	back := numb.join(request{dataPlane: m.id, previous: m.session(), resume: m.last()})
	k = other.revoke()
	require.False(t, other.receipt(k).Complete)
	back.heed(k, other)
	require.True(t, other.await(k, patience).Complete)
}

// A replica without streams does not beat; to others it may be dead, and its next stream to be buried, unless it beats first.
func TestAnIdleReplicaBeatsBeforeItsFirstStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	idle := w.replica(options{lease: lease, house: time.Second})
	beat := func() int64 {
		replicas, err := w.store.Replicas(t.Context())
		require.NoError(t, err)
		if len(replicas) == 0 {
			return 0
		}
		return replicas[0].Beat
	}
	time.Sleep(2500 * time.Millisecond)
	require.Zero(t, beat())
	idle.join(request{})
	require.Positive(t, beat(), "long before the house is kept again")
}

func TestAwaitEndsWithItsTimeItsContextAndTheFeed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: time.Minute})
		r.join(request{})
		k := r.revoke()
		began := time.Now()
		require.False(t, r.await(k, 0).Complete)
		require.False(t, r.await(k, 50*time.Millisecond).Complete)
		require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, _ = r.WaitForReceipt(ctx, k, time.Hour)

		ended := make(chan feed.Receipt)
		go func() { got, _ := r.WaitForReceipt(context.Background(), k, time.Hour); ended <- got }()
		time.Sleep(50 * time.Millisecond)
		r.kill()
		require.False(t, (<-ended).Complete)
		require.Less(t, time.Since(began), patience)
	})
}

// A data plane that moves to another replica, as behind a load balancer, holds up the receipts of neither: the one it left
// sees that its stream has been carried on, though the connection may seem open still.
func TestAStreamThatAnotherReplicaCarriesOnHoldsNoReceiptUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelstest.EnginePostgres)
	o := options{lease: time.Minute, house: 50 * time.Millisecond}
	left, next := w.replica(o), w.replica(o)
	m := left.join(request{maxStale: time.Minute})
	pending := left.revoke()
	w.eventually("both have read it", func() bool {
		return feed.Holds(left.Feed, pending.RevocationTx) && feed.Holds(next.Feed, pending.RevocationTx)
	})
	back := next.join(request{dataPlane: m.id, previous: m.session(), resume: m.hear(pending).id, maxStale: time.Minute})
	w.eventually("the replica it left knows", func() bool { return feed.Streams(left.Feed) == 0 })
	require.True(t, left.await(pending, patience).Complete, "it had acted on it, as its position says")

	k := left.revoke()
	back.heed(k, next)
	got := left.await(k, patience)
	require.True(t, got.Complete)
	require.Equal(t, 1, got.DataPlanes)
}
