package feed_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/models"
)

func TestTheStreamsOfARevokedDataPlaneEndWithinTwoSeconds(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{})
		revoked, expired, fine := w.dataPlane(), w.dataPlane(), w.dataPlane()
		first, second, third := r.connect(request{dataPlane: revoked.ID}), r.connect(request{dataPlane: expired.ID}),
			r.connect(request{dataPlane: fine.ID})
		began := time.Now()
		w.transact(func(tx *models.Tx) error {
			_, err := tx.RevokeDataPlane(revoked.Name, "")
			return err
		})
		first.awaitWholeEnd()
		require.Less(t, time.Since(began), 2*time.Second)
		began = time.Now()
		w.execute("UPDATE data_planes SET expires_at = 1 WHERE id = '" + expired.ID + "'")
		second.awaitEnd()
		require.Less(t, time.Since(began), 2*time.Second)
		third.await("what comes next", about(r.revoke().ID))
	})
}

func TestStreamsThatAcknowledgeNothingEnd(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{house: 50 * time.Millisecond, silence: 500 * time.Millisecond})
		silent, heard := r.join(request{}), r.join(request{})
		for began := time.Now(); time.Since(began) < time.Second; time.Sleep(50 * time.Millisecond) {
			r.acknowledge(heard.id, heard.conn, heard.last())
		}
		silent.awaitWholeEnd()
		select {
		case <-heard.ended:
			require.Fail(t, "it acknowledged all the while")
		default:
		}
	})
}

func TestRunEndsAtOnceAndAllStreamsWithIt(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.replica(options{})
		all := []*conn{r.connect(request{}), r.connect(request{}), r.connect(request{})}
		began := time.Now()
		r.kill()
		require.Less(t, time.Since(began), 2*time.Second)
		for _, c := range all {
			c.awaitEnd()
		}
		require.Zero(t, r.serving.Load())
		_, err := r.Subscribe(t.Context(), feed.Subscription{DataPlane: w.dataPlane()})
		require.ErrorIs(t, err, models.ErrUnavailable)
	})
}

func TestMetricsAreRegisteredOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		registry := prometheus.NewPedanticRegistry()
		_, err := feed.New(feed.Config{Store: w.store, Metrics: registry})
		require.NoError(t, err)
		families, err := registry.Gather()
		require.NoError(t, err)
		require.Len(t, families, 2, "gauges; counters come with what they count")
		_, err = feed.New(feed.Config{Store: w.store, Metrics: registry})
		require.Error(t, err)
	})
}
