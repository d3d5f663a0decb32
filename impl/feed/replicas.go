package feed

import (
	"context"
	"errors"
	"time"

	"github.com/agentrouter/aikeys/models"
)

// timing holds the intervals of the upkeep, which tests shorten.
type timing struct {
	// maintenance is the time between two runs of runMaintenance, and between two heartbeats of the replica itself.
	maintenance time.Duration
	// replicaGrace is how long this replica extends leases after its own last heartbeat. The others take it for dead only
	// after twice that time, when the last lease is long over.
	replicaGrace time.Duration
	// silence is how long a stream may go without an acknowledgement. Data planes send one every 5 s.
	silence time.Duration
}

var defaultTiming = timing{maintenance: time.Second, replicaGrace: 5 * time.Second, silence: 30 * time.Second}

// deadAfter is how long a replica may go without a heartbeat of its own before the others take it for dead.
func (t timing) deadAfter() time.Duration { return 2 * t.replicaGrace }

// mayExtendLeases reports whether the other replicas know that this one is alive, and so keep its streams in their receipts.
// The caller holds mu.
func (f *Feed) mayExtendLeases() bool {
	return f.clock()-f.replicaHeartbeatAt < f.timing.replicaGrace
}

// sendReplicaHeartbeat tells the other replicas that this one is alive, as long as it has streams.
func (f *Feed) sendReplicaHeartbeat(ctx context.Context) error {
	f.mu.Lock()
	streams := len(f.streams)
	f.mu.Unlock()
	if streams == 0 {
		return nil
	}
	f.replicaMu.Lock()
	defer f.replicaMu.Unlock()
	return f.storeReplicaHeartbeat(ctx)
}

// ensureReplicaHeartbeat stores a heartbeat unless that was done lately. Every stream opens after one: a replica that has had
// no streams for long is dead to the others, which would delete the rows of its new streams.
func (f *Feed) ensureReplicaHeartbeat(ctx context.Context) error {
	f.replicaMu.Lock()
	defer f.replicaMu.Unlock()
	f.mu.Lock()
	recent := f.clock()-f.replicaHeartbeatAt < 2*f.timing.maintenance
	f.mu.Unlock()
	if recent {
		return nil
	}
	return f.storeReplicaHeartbeat(ctx)
}

// storeReplicaHeartbeat stores a heartbeat. If the others may have taken this replica for dead before it, and deleted the
// rows of its streams, it ends them. The caller holds replicaMu.
func (f *Feed) storeReplicaHeartbeat(ctx context.Context) error {
	began := f.clock()
	if err := f.store.RecordHeartbeat(ctx, f.replicaID); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clock()-f.replicaHeartbeatAt > f.timing.deadAfter() {
		for _, s := range f.streams {
			s.hasRow = false // without having been replaced
			f.endStream(s, endReaped)
		}
	}
	f.replicaHeartbeatAt = began
	return nil
}

// runMaintenance ends streams that must not go on, and drops those whose leases have run out: this replica's own, and those of
// replicas that are dead.
func (f *Feed) runMaintenance(ctx context.Context) error {
	f.forgetOldTallies()
	f.endSilentStreams()
	return errors.Join(
		f.endRevokedStreams(ctx),
		f.dropDrainedStreams(ctx),
		f.dropReplacedStreams(ctx),
		f.deleteDeadReplicas(ctx),
		f.countServing(ctx),
	)
}

// endSilentStreams ends streams that have not acknowledged anything for long, so that receipts need not wait for them.
func (f *Feed) endSilentStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		if f.clock()-s.acknowledgedAt > f.timing.silence {
			f.endStream(s, endSilent)
		}
	}
}

// endRevokedStreams ends the streams of data planes whose credential was revoked or has expired.
func (f *Feed) endRevokedStreams(ctx context.Context) error {
	connected := map[string][]*Stream{} // data plane's id → its streams
	f.mu.Lock()
	for _, s := range f.streams {
		if s.isOpen() {
			connected[s.dataPlane.ID] = append(connected[s.dataPlane.ID], s)
		}
	}
	f.mu.Unlock()
	if len(connected) == 0 {
		return nil
	}
	ids := make([]string, 0, len(connected))
	for id := range connected {
		ids = append(ids, id)
	}
	live, err := f.store.LiveDataPlanes(ctx, ids, time.Now().UnixMicro())
	if err != nil {
		return err
	}
	for _, id := range live {
		delete(connected, id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, streams := range connected {
		for _, s := range streams {
			f.endStream(s, endRevoked)
		}
	}
	return nil
}

// dropDrainedStreams drops streams whose leases have run out, and deletes their rows.
func (f *Feed) dropDrainedStreams(ctx context.Context) error {
	var ids []string
	f.mu.Lock()
	for id, s := range f.streams {
		if s.state == stateDraining && f.clock() >= s.leaseEnd && len(ids) < maxRows {
			ids = append(ids, id)
		}
	}
	f.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	if err := f.store.DropStreams(ctx, ids); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		if s := f.streams[id]; s != nil && f.clock() >= s.leaseEnd { // else it drains again: see markPersisted
			f.expirePending(s)
			f.dropStream(s)
		}
	}
	return nil
}

// dropReplacedStreams drops streams that were carried on at another replica, which has deleted their rows. What they had yet to
// acknowledge, that replica waits for. A replica that others may take for dead can't tell these streams from those whose rows
// were deleted because of that, so it drops none.
func (f *Feed) dropReplacedStreams(ctx context.Context) error {
	replaced := map[string]*Stream{}
	f.mu.Lock()
	for id, s := range f.streams {
		if s.hasRow && f.mayExtendLeases() {
			replaced[id] = s
		}
	}
	f.mu.Unlock()
	if len(replaced) == 0 {
		return nil
	}
	ids, err := f.store.StreamIDs(ctx, f.replicaID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		delete(replaced, id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range replaced {
		if !s.hasRow {
			continue // the others may have taken this replica for dead since
		}
		f.dropFromTallies(s)
		f.endStream(s, endReplaced)
		f.dropStream(s)
	}
	return nil
}

// peer is the last heartbeat of a replica, and when this one first saw it.
type peer struct {
	heartbeat int64
	seenAt    time.Duration
}

// deleteDeadReplicas deletes the rows of streams of replicas that are dead, as the leases of those streams run out.
func (f *Feed) deleteDeadReplicas(ctx context.Context) error {
	asked := f.clock()
	replicas, err := f.store.Replicas(ctx)
	if err != nil {
		return err
	}
	known := make(map[string]peer, len(replicas))
	for _, r := range replicas {
		last, seen := f.peers[r.ID]
		if !seen || last.heartbeat != r.Heartbeats {
			last = peer{heartbeat: r.Heartbeats, seenAt: f.clock()}
		}
		known[r.ID] = last
	}
	f.peers = known
	for id, p := range known {
		expired := asked - p.seenAt - f.timing.deadAfter() - f.lease
		if id == f.replicaID || expired < 0 {
			continue
		}
		if err := f.store.DeleteDeadReplica(ctx, models.Replica{ID: id, Heartbeats: p.heartbeat}, int(expired.Milliseconds())); err != nil {
			return err
		}
	}
	return nil
}
