package feed_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestHelloSaysWhatTheLeaseNeeds(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{lease: 700 * time.Millisecond})
		c := r.connect(request{})
		all := c.all()
		require.Equal(t, "hello", all[0].Type, "it comes first")
		require.Len(t, *all[0].SessionID, 26)
		require.Len(t, *all[0].ReplicaID, 26)
		require.Equal(t, 700, *all[0].LeaseMs)
		require.Equal(t, 1, *all[0].AcknowledgeWithinMs, "of one stream")
		require.Equal(t, "heartbeat", all[1].Type)
		require.False(t, c.when(*all[1].ClockMs).After(all[1].at), "what is told was read before")
		require.Empty(t, all[0].id)
		_ = all[1].position(t)
	})
}

// A heartbeat that comes before a revocation vouches for a time before it, so that its lease ends within its length of it.
func TestNoHeartbeatVouchesForATimeBeyondARevocationThatItPrecedes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{})
		c := r.connect(request{})
		for range 30 {
			k := r.revoke()
			committed := time.Now()
			c.await("the revocation", after(k.ID))
			for _, m := range c.all() {
				if about(k.ID)(m) && m.Type == "key.revoked" {
					break
				}
				if m.Type == "heartbeat" {
					require.False(t, c.when(*m.ClockMs).After(committed))
				}
			}
		}
	})
}

func TestHeartbeatsComeThriceInALeaseWhateverElseHappens(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{})
		c := r.connect(request{dataPlane: w.dataPlane("nobody").ID})
		beats := func() (all []message) {
			for _, m := range c.all() {
				if m.Type == "heartbeat" {
					all = append(all, m)
				}
			}
			return all
		}
		gap := func(i int) time.Duration {
			all := beats()
			return time.Duration(*all[i].ClockMs-*all[i-1].ClockMs) * time.Millisecond
		}
		next := func() int {
			n := len(beats())
			w.eventually("a heartbeat", func() bool { return len(beats()) > n })
			return n
		}
		var usual, disturbed []time.Duration
		for range 4 {
			usual = append(usual, gap(next()))
			time.Sleep(270 * time.Millisecond)
			feed.Wake(r.Feed) // a read in between, which comes with a heartbeat: the next comes in its time after that
			next()
			disturbed = append(disturbed, gap(next()))
		}
		require.Less(t, slices.Min(usual), 450*time.Millisecond)
		require.Less(t, slices.Min(disturbed), 450*time.Millisecond)
		gaps := slices.Concat(usual, disturbed)
		slices.Sort(gaps)
		require.Less(t, gaps[len(gaps)/2], time.Second)
	})
}

func TestNoHeartbeatComesWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync())
	require.NoError(t, cluster.Stop(modelstest.Immediate))
	w := &world{t: t, engine: modelstest.EnginePostgres, url: cluster.URL("postgres")}
	w.store = modelstest.OpenStore(t, w.url, models.Options{Timeout: time.Second})
	r := w.start(options{})
	_, status := open(t, r.base, request{dataPlane: "any"})
	require.Equal(t, 503, status)

	require.NoError(t, cluster.Start())
	_, err := w.store.Migrate(t.Context())
	require.NoError(t, err)
	w.transact(func(tx *models.Tx) error { return tx.EnsureProject(acme, "web") })
	dataPlane := w.dataPlane().ID
	var c *conn
	w.eventually("the stream opens", func() bool {
		c, status = open(t, r.base, request{dataPlane: dataPlane})
		return status == 200
	})
	c.await("a heartbeat", typed("heartbeat"))

	require.NoError(t, cluster.Stop(modelstest.Immediate))
	stopped := time.Now()
	time.Sleep(1500 * time.Millisecond) // more than the time of a lease without one
	for _, m := range c.all() {
		if m.Type == "heartbeat" {
			require.False(t, c.when(*m.ClockMs).After(stopped))
		}
	}
	require.NoError(t, cluster.Start())
	began := time.Now()
	c.await("a heartbeat of now", func(m message) bool { return m.Type == "heartbeat" && c.when(*m.ClockMs).After(began) })
	k := r.revoke()
	c.await("a revocation", about(k.ID))
}
