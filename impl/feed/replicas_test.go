package feed

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/models"
)

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

// hasty makes replicas take each other for dead after a second.
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

// A replica whose heartbeats don't reach the database is taken for dead, and the rows of its streams are deleted. So it sends
// those no heartbeats, and ends them once it can store its own again.
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

// Other replicas may take a replica without streams for dead, and would delete its next stream.
func TestIdleReplicaSendsHeartbeatFirst(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r := e.replica(func(f *Feed) { f.params.maintenance = time.Hour })
		time.Sleep(2500 * time.Millisecond)
		require.Empty(t, e.knownReplicas())
		r.connect()
		require.Positive(t, e.knownReplicas()[0].Heartbeats)
	})
}

// counts returns what a data plane was last told of how many serve a customer.
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
