package models_test

import (
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
)

// openStream opens a stream of a data plane at a replica, from the position of now on.
func (f *fixture) openStream(id string, d models.DataPlane, replica, previous string) models.Stream {
	f.t.Helper()
	return f.openStreamAt(f.position(), id, d, replica, previous)
}

func (f *fixture) openStreamAt(at position.Position, id string, d models.DataPlane, replica, previous string) models.Stream {
	f.t.Helper()
	s := models.Stream{ID: id, DataPlaneID: d.ID, ReplicaID: replica, MaxStaleMs: 100, Position: at.String(), Settled: at.Xmin}
	require.NoError(f.t, f.OpenStream(f.t.Context(), s, previous))
	return s
}

// streams are the ids of those there are.
func (f *fixture) streams() []string {
	f.t.Helper()
	rows, err := models.Conn(f.Store).QueryContext(f.t.Context(), "SELECT id FROM streams ORDER BY id")
	require.NoError(f.t, err)
	out := []string{}
	for rows.Next() {
		var id string
		require.NoError(f.t, rows.Scan(&id))
		out = append(out, id)
	}
	require.NoError(f.t, rows.Err())
	require.NoError(f.t, rows.Close())
	return out
}

func (f *fixture) takeForwarded(replica string) map[string]string {
	f.t.Helper()
	taken, err := f.TakeForwarded(f.t.Context(), replica)
	require.NoError(f.t, err)
	out := map[string]string{}
	for _, s := range taken {
		require.Equal(f.t, replica, s.ReplicaID)
		out[s.ID] = s.Forwarded
	}
	return out
}

func (f *fixture) receipts(k models.Key) (receipts []models.Receipt, unheard int) {
	f.t.Helper()
	receipts, unheard, err := f.Receipts(f.t.Context(), k)
	require.NoError(f.t, err)
	return receipts, unheard
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
		require.Empty(t, f.takeForwarded("r1"))
		for id, d := range map[string]models.DataPlane{"absent": eu, "3": eu, "1": us} {
			require.ErrorIs(t, f.ForwardAcknowledgement(t.Context(), id, d.ID, at), models.ErrNotFound, "%s of %s", id, d.Name)
		}
		require.NoError(t, f.ForwardAcknowledgement(t.Context(), "1", eu.ID, at))
		require.Empty(t, f.takeForwarded("r2"), "it is another's")
		require.Equal(t, map[string]string{"1": "5:9:5,7"}, f.takeForwarded("r1"))
		require.Empty(t, f.takeForwarded("r1"))
	})
}

// Positions are forwarded one after another while they are taken: the last of them is taken, whatever it came in between.
func TestNoForwardedAcknowledgementIsLostToOneThatIsTaken(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const last = 100
		eu := f.dataPlane("eu", nil)
		f.openStream("1", eu, "r1", "")
		var done atomic.Bool
		var taken []string
		errs := together(2, func(i int) error {
			if i == 0 {
				defer done.Store(true)
				for n := int64(1); n <= last; n++ {
					if err := f.ForwardAcknowledgement(t.Context(), "1", eu.ID, position.Position{Xmin: n, Xmax: n}); err != nil {
						return err
					}
				}
				return nil
			}
			for ended := false; !ended; {
				ended = done.Load() // one more look after the last
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
		require.Equal(t, "100:100:", taken[len(taken)-1])
		require.Len(t, slices.Compact(slices.Clone(taken)), len(taken), "each once")
		require.Empty(t, f.takeForwarded("r1"))
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

// A replica that is slow, not dead, stores a heartbeat after another has found it dead and before that deletes it.
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
			{KeyID: "k1", ReplicaID: "r1", DataPlanes: 3, Acknowledged: 1, SlowestUs: 900},
			{KeyID: "k1", ReplicaID: "r2", DataPlanes: 2},
			{KeyID: "k2", ReplicaID: "r1", DataPlanes: 1, Acknowledged: 1},
		}
		require.NoError(t, f.SaveReceipts(t.Context(), first))
		later := models.Receipt{KeyID: "k1", ReplicaID: "r1", DataPlanes: 3, Acknowledged: 3, SlowestUs: 4000}
		another := models.Receipt{KeyID: "k3", ReplicaID: "r1"}
		require.NoError(t, f.SaveReceipts(t.Context(), []models.Receipt{later, another}))
		got, unheard := f.receipts(models.Key{ID: "k1"})
		require.ElementsMatch(t, []models.Receipt{later, first[1]}, got)
		require.Zero(t, unheard)
		got, _ = f.receipts(models.Key{ID: "k3"})
		require.Equal(t, []models.Receipt{another}, got)
		require.Equal(t, 4, f.count("receipts"))
	})
}

func TestAReceiptCountsTheStreamsThatMayNotHaveHeard(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		newStranger(t, f) // a long transaction, which keeps xmin back
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
		f.revokeNoted(&key)
		requireUnheard(3)
		f.openStream("6", all, "r3", "")
		requireUnheard(3)
		f.openStreamAt(before, "7", all, "r3", "")
		requireUnheard(4) // it resumed before the revocation
		require.NoError(t, f.SaveReceipts(t.Context(), []models.Receipt{{KeyID: key.ID, ReplicaID: "r1", DataPlanes: 2}, {KeyID: "another", ReplicaID: "r2"}}))
		requireUnheard(2)
		f.openStream("8", all, "r4", "3") // carried on elsewhere, after the revocation
		requireUnheard(1)
		require.NoError(t, f.DropStreams(t.Context(), []string{"7"}))
		requireUnheard(0)
		receipts, _ := f.receipts(key)
		require.Equal(t, []models.Receipt{{KeyID: key.ID, ReplicaID: "r1", DataPlanes: 2}}, receipts)
	})
}
