package feed

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

// deadAfter is how long a replica may go without a heartbeat of its own before the other replicas consider it dead.
func (f *Feed) deadAfter() time.Duration { return 2 * f.params.replicaGrace }

// mayExtendLeases reports whether the other replicas know that this one is alive, and so keep its streams in their receipts.
// The caller holds mu.
func (f *Feed) mayExtendLeases() bool {
	return f.clock()-f.replicaHeartbeatAt < f.params.replicaGrace
}

// sendReplicaHeartbeat tells the other replicas that this one is alive, as long as it has streams.
func (f *Feed) sendReplicaHeartbeat(ctx context.Context) error {
	f.mu.Lock()
	streams := len(f.streams)
	f.mu.Unlock()
	if streams == 0 {
		return nil
	}
	return f.ensureReplicaHeartbeat(ctx, 0)
}

// ensureReplicaHeartbeat stores a heartbeat of this replica, unless the last one is younger than maxAge. A stream opens
// only after such a heartbeat: a replica without streams sends no heartbeats, so the other replicas consider it dead
// after a while, and would delete the rows of its new streams. If they may have deleted rows before this heartbeat,
// ensureReplicaHeartbeat ends this replica's streams.
func (f *Feed) ensureReplicaHeartbeat(ctx context.Context, maxAge time.Duration) error {
	f.replicaMu.Lock()
	defer f.replicaMu.Unlock()
	began := f.clock()
	f.mu.Lock()
	isRecent := began-f.replicaHeartbeatAt < maxAge
	f.mu.Unlock()
	if isRecent {
		return nil
	}
	if err := f.store.RecordHeartbeat(ctx, f.replicaID); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clock()-f.replicaHeartbeatAt > f.deadAfter() {
		for _, s := range f.streams {
			s.hasRow = false // the row may be deleted although no stream replaced this one
			f.endStream(s, endReaped)
		}
	}
	f.replicaHeartbeatAt = began
	return nil
}

// runMaintenance ends streams that must not continue, and drops streams whose leases have run out: this replica's own,
// and those of replicas that are dead.
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

// endSilentStreams ends streams that have not acknowledged anything for too long, so that receipts need not wait for
// them.
func (f *Feed) endSilentStreams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		if f.clock()-s.acknowledgedAt > f.params.silence {
			f.endStream(s, endSilent)
		}
	}
}

// endRevokedStreams ends the streams of data planes whose credential was revoked or has expired.
func (f *Feed) endRevokedStreams(ctx context.Context) error {
	revoked := map[string]bool{} // ids of data planes
	f.mu.Lock()
	for _, s := range f.streams {
		if s.isOpen() {
			revoked[s.DataPlane.ID] = true
		}
	}
	f.mu.Unlock()
	if len(revoked) == 0 {
		return nil
	}
	live, err := f.store.LiveDataPlanes(ctx, slices.Collect(maps.Keys(revoked)), time.Now().UnixMicro())
	if err != nil {
		return err
	}
	for _, id := range live {
		delete(revoked, id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		if revoked[s.DataPlane.ID] {
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
		if s := f.streams[id]; s != nil && f.clock() >= s.leaseEnd { // otherwise it drains again: see markPersisted
			f.expirePending(s)
			f.dropStream(s)
		}
	}
	return nil
}

// dropReplacedStreams drops streams that streams of another replica have replaced. The other replica has deleted the
// rows of the old streams, and waits for the acknowledgements. If other replicas may consider this one dead,
// dropReplacedStreams drops nothing, because a row may be missing for that reason.
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
			continue // the other replicas may have considered this one dead since
		}
		f.dropFromTallies(s)
		f.endStream(s, endReplaced)
		f.dropStream(s)
	}
	return nil
}

// peer is the last heartbeat of a replica, and when this replica first saw it.
type peer struct {
	heartbeat int64
	seenAt    time.Duration
}

// deleteDeadReplicas deletes the rows of dead replicas' streams, as soon as the leases of the streams have run out.
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
		expired := asked - p.seenAt - f.deadAfter() - f.params.lease
		if id == f.replicaID || expired < 0 {
			continue
		}
		if err := f.store.DeleteDeadReplica(ctx, models.Replica{ID: id, Heartbeats: p.heartbeat}, int(expired.Milliseconds())); err != nil {
			return err
		}
	}
	return nil
}

// maxCounted is the largest number of customers for which a heartbeat has counts. It keeps heartbeats small.
const maxCounted = 300

// serving counts the streams that serve: each enforces its share of a key's limits. A value never changes.
type serving struct {
	streams, everybody int            // everybody counts the streams of data planes that serve all customers
	byCustomer         map[string]int // by each customer that a data plane is limited to; includes everybody
}

// countServing counts the streams of all replicas. If a count has changed, the next heartbeat says so.
func (f *Feed) countServing(ctx context.Context) error {
	found, err := f.store.CountServingStreams(ctx)
	if err != nil {
		return err
	}
	now := &serving{byCustomer: map[string]int{}}
	for _, of := range found {
		now.streams += of.Streams
		if of.Customers == nil {
			now.everybody += of.Streams
		}
		for _, customer := range of.Customers {
			now.byCustomer[customer] += of.Streams
		}
	}
	for customer := range now.byCustomer {
		now.byCustomer[customer] += now.everybody
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.serving; old == nil || f.joined || old.streams != now.streams || old.everybody != now.everybody ||
		!maps.Equal(old.byCustomer, now.byCustomer) {
		f.serving, f.joined = now, false
	}
	return nil
}

// countsFor returns the counts for a heartbeat to a data plane; uncounted is how many of the data plane's own streams n
// lacks. If the data plane serves too many customers to list, countsFor returns the number of all streams as the count
// for every customer. The data plane's shares of limits are then too small, but never too large.
func (n *serving) countsFor(d models.DataPlane, uncounted int) (others *int, byCustomer []gen.DataPlanesOfCustomer) {
	customers := d.Customers
	if customers == nil {
		customers = slices.Sorted(maps.Keys(n.byCustomer))
	}
	if len(customers) > maxCounted {
		return new(max(n.streams+uncounted, 1)), nil
	}
	for _, customer := range customers {
		count, ok := n.byCustomer[customer]
		if !ok {
			count = n.everybody
		}
		byCustomer = append(byCustomer, gen.DataPlanesOfCustomer{CustomerID: customer, DataPlanes: count + uncounted})
	}
	return new(max(n.everybody+uncounted, 1)), byCustomer
}
