package models_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// While requests hold every connection of their pool, all that the event feed does goes on.
func TestFeedNeedsNoRequestConnection(t *testing.T) {
	t.Parallel()
	url := modelstest.EnginePostgres.URL(t)
	busy := modelstest.OpenStore(t, url, models.Options{MaxConns: 2, Timeout: 2 * time.Second})
	_, err := busy.Migrate(t.Context())
	require.NoError(t, err)
	f := newFixture(t, busy)
	dp := f.dataPlane("dp", nil).ID
	for range 2 {
		conn, err := models.Conn(busy).Conn(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, conn.Close()) })
	}
	stream := models.Stream{ID: "s1", DataPlaneID: dp, ReplicaID: "r1", Position: "1:1:", Settled: 1}
	at := position.Position{Xmin: 1, Xmax: 1}
	for _, step := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"OpenStream", func(ctx context.Context) error { return busy.OpenStream(ctx, stream, "") }},
		{"ForwardAcknowledgement", func(ctx context.Context) error { return busy.ForwardAcknowledgement(ctx, "s1", dp, at) }},
		{"TakeForwarded", func(ctx context.Context) error { _, err := busy.TakeForwarded(ctx, "r1"); return err }},
		{"RecordHeartbeat", func(ctx context.Context) error { return busy.RecordHeartbeat(ctx, "r1") }},
		{"Position", func(ctx context.Context) error { _, err := busy.Position(ctx); return err }},
		{"Changes", func(ctx context.Context) error { _, _, err := busy.Changes(ctx, at, 10); return err }},
		{"LiveDataPlanes", func(ctx context.Context) error { _, err := busy.LiveDataPlanes(ctx, []string{dp}, now()); return err }},
		{"StreamIDs", func(ctx context.Context) error { _, err := busy.StreamIDs(ctx, "r1"); return err }},
		{"Replicas", func(ctx context.Context) error { _, err := busy.Replicas(ctx); return err }},
		{"SaveReceipts", func(ctx context.Context) error {
			return busy.SaveReceipts(ctx, []models.Receipt{{KeyID: "k", ReplicaID: "r1"}})
		}},
		{"RecordFetch", func(ctx context.Context) error { return busy.RecordFetch(ctx, record("r")) }},
		{"DropStreams", func(ctx context.Context) error { return busy.DropStreams(ctx, []string{"s1"}) }},
		{"DeleteDeadReplica", func(ctx context.Context) error {
			return busy.DeleteDeadReplica(ctx, models.Replica{ID: "r1", Heartbeats: 1}, 0)
		}},
	} {
		require.NoError(t, step.do(t.Context()), step.name)
	}
	require.ErrorIs(t, busy.Ping(t.Context()), models.ErrUnavailable, "the request pool is full")
}

// A lock on the feed's tables must not hold up reading changes, the replica's heartbeat, or fetch records.
func TestFeedBookkeepingHoldsUpNoLease(t *testing.T) {
	t.Parallel()
	l := newLanes(t, models.Options{Timeout: 20 * time.Second})
	release := l.hold("LOCK TABLE streams, receipts IN ACCESS EXCLUSIVE MODE")
	const stuck = 12
	ended := make(chan error, stuck)
	for range stuck {
		go func() { ended <- l.DropStreams(t.Context(), []string{"s1"}) }()
	}
	l.awaitWaiting(2)
	for range 3 {
		require.NoError(t, l.RecordHeartbeat(t.Context(), "r1"))
		_, _, err := l.Changes(t.Context(), position.Position{Xmin: 1, Xmax: 1}, 10)
		require.NoError(t, err)
		require.NoError(t, l.RecordFetch(t.Context(), record("r")))
	}
	require.Empty(t, ended)
	release()
	for range stuck {
		require.NoError(t, <-ended)
	}
}
