package feed_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/models"
)

func TestRevokedDataPlanesLoseTheirStreams(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(options{})
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
		r := e.replica(options{})
		silent, heard := r.connect(), r.connect()
		for range 7 {
			require.False(t, silent.Ended())
			time.Sleep(4 * time.Second)
			r.acknowledge(heard, heard.Last(), nil)
		}
		time.Sleep(4 * time.Second)
		require.True(t, silent.Ended(), "30 s have passed")
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

// hasty are the options of replicas that take each other for dead after a second.
var hasty = options{lease: 600 * time.Millisecond, timing: feed.Timing{Maintenance: 50 * time.Millisecond, Grace: 500 * time.Millisecond}}

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

// A replica whose heartbeats don't reach the database is taken for dead, and the rows of its streams are deleted. So it sends
// those no heartbeats, and ends them once it can store its own again.
func TestStreamsOfReapedReplicaEnd(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		store := &faultyStore{Store: e.newStore(), method: "RecordHeartbeat"}
		o := hasty
		o.store = store
		cutOff, other := e.replica(o), e.replica(hasty)
		m := cutOff.connect()
		store.blocks.Store(true)
		e.eventually("it is reaped", func() bool { return len(e.knownReplicas()) == 0 })
		k := e.revoke()
		last := m.Await("the revocation, without a heartbeat", func(got feedtest.Message) bool {
			return isAbout(k.ID)(got) && got.Type == "key.revoked"
		})
		beats := m.heartbeats()
		leaseEnd := m.When(*beats[len(beats)-1].ClockMs).Add(hasty.lease)
		require.True(t, leaseEnd.Before(last.At), "its lease ended before it was reaped")
		store.blocks.Store(false)
		require.NoError(t, m.AwaitEnd())
		back := cutOff.subscribe(m.resumed())
		k = e.revoke()
		require.False(t, other.receipt(k, 0).Complete)
		back.acknowledge(k, other)
		require.True(t, other.receipt(k, feedtest.Patience).Complete)
	})
}

// Other replicas may take a replica without streams for dead, and would delete its next stream.
func TestIdleReplicaSendsHeartbeatFirst(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(options{timing: feed.Timing{Maintenance: time.Hour}})
		time.Sleep(2500 * time.Millisecond)
		require.Empty(t, e.knownReplicas())
		r.connect()
		require.Positive(t, e.knownReplicas()[0].Heartbeats)
	})
}
