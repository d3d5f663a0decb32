package feed

import (
	"context"
	"log/slog"
	"time"
)

const (
	// houseInterval is how often the house is kept.
	houseInterval = time.Second
	// ackSilence is how long a stream may go without an acknowledgement; data planes send one every 5 s.
	ackSilence = 30 * time.Second
	// beatGrace is for how long this replica's streams get heartbeats though the others can't be told that it lives.
	beatGrace = 5 * time.Second
	// tallyLife is how long a revocation is remembered: longer than any data plane may serve without asking.
	tallyLife = time.Hour + time.Minute
)

// deadAfter is how long another replica may go without a beat. It is longer than beatGrace, by which a replica that can't beat
// has stopped to extend leases.
func (f *Feed) deadAfter() time.Duration { return 2 * f.beatGrace }

// pulse is the last beat of another replica, and when it was first seen.
type pulse struct {
	beat   int64
	seenAt time.Duration
}

// keepHouse says that this replica lives, ends streams that must not go on, and takes leases that have run out off the books:
// its own, and those of replicas that are dead.
func (f *Feed) keepHouse(ctx context.Context) error {
	ticker := time.NewTicker(f.house)
	defer ticker.Stop()
	others := map[string]pulse{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		f.forget()
		for _, chore := range []func(context.Context) error{f.live, f.endUnfit, f.dropDeparted, f.dropReplaced,
			func(ctx context.Context) error { return f.buryDead(ctx, others) }} {
			if err := chore(ctx); err != nil && ctx.Err() == nil {
				f.log.DebugContext(ctx, "a chore of the feed failed and is due again", slog.String("error", err.Error()))
			}
		}
	}
}

// live beats for as long as streams depend on it.
func (f *Feed) live(ctx context.Context) error {
	f.mu.Lock()
	idle := len(f.streams) == 0 && len(f.departed) == 0
	f.mu.Unlock()
	if idle {
		return nil
	}
	f.beating.Lock()
	defer f.beating.Unlock()
	return f.beat(ctx)
}

// ensureAlive beats unless that was done lately. Streams come after it: to those who have not heard of this replica for long
// it is dead, and its streams, new ones too, are to be taken off the books.
func (f *Feed) ensureAlive(ctx context.Context) error {
	f.beating.Lock()
	defer f.beating.Unlock()
	if f.clock()-time.Duration(f.beatAt.Load()) < 2*f.house {
		return nil
	}
	return f.beat(ctx)
}

// beat tells the others that this replica lives. When they may have taken it for dead meanwhile, its streams are not on the
// books any more, and end.
func (f *Feed) beat(ctx context.Context) error {
	began := f.clock()
	if err := f.store.Beat(ctx, f.replica); err != nil {
		return err
	}
	if f.clock()-time.Duration(f.beatAt.Load()) > f.deadAfter() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, streams := range []map[string]*Stream{f.streams, f.departed} {
			for _, s := range streams {
				s.booked = false // nobody has taken its place
				f.end(s, endBuried)
			}
		}
	}
	f.beatAt.Store(int64(began))
	return nil
}

// endUnfit ends streams whose data plane's credential has ended, and those that acknowledge nothing.
func (f *Feed) endUnfit(ctx context.Context) error {
	connected := map[string][]*Stream{} // :: data plane → streams
	f.mu.Lock()
	for _, s := range f.streams {
		if f.clock()-s.heardAt > f.ackSilence {
			f.end(s, endSilent)
			continue
		}
		connected[s.dataPlane.ID] = append(connected[s.dataPlane.ID], s)
	}
	f.mu.Unlock()
	ids := make([]string, 0, len(connected))
	for id := range connected {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
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
			f.end(s, endRevoked)
		}
	}
	return nil
}

// dropDeparted takes streams off the books whose leases have run out.
func (f *Feed) dropDeparted(ctx context.Context) error {
	var ids []string
	f.mu.Lock()
	for id, s := range f.departed {
		if f.clock() >= s.until && len(ids) < maxRows {
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
		delete(f.departed, id)
	}
	return nil
}

// dropReplaced drops streams that another replica's have taken the place of. What those had yet to acknowledge, the others
// wait for: that was stored before these went off the books. A replica that others may take for dead can't tell these from
// streams that they have buried.
func (f *Feed) dropReplaced(ctx context.Context) error {
	booked := f.booked()
	if len(booked) == 0 || !f.mayHeartbeat() {
		return nil
	}
	ids, err := f.store.StreamIDs(ctx, f.replica)
	if err != nil {
		return err
	}
	for _, id := range ids {
		delete(booked, id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, s := range booked {
		if !s.booked {
			continue // taken for dead meanwhile
		}
		f.excuse(s)
		f.end(s, endReplaced)
		delete(f.departed, id)
	}
	return nil
}

// booked returns the streams that are on the books.
func (f *Feed) booked() map[string]*Stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	booked := map[string]*Stream{}
	for _, streams := range []map[string]*Stream{f.streams, f.departed} {
		for id, s := range streams {
			if s.booked {
				booked[id] = s
			}
		}
	}
	return booked
}

// buryDead takes the streams of dead replicas off the books when their leases have run out.
func (f *Feed) buryDead(ctx context.Context, others map[string]pulse) error {
	asked := f.clock()
	replicas, err := f.store.Replicas(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, r := range replicas {
		known[r.ID] = true
		last, seen := others[r.ID]
		if !seen || last.beat != r.Beat {
			others[r.ID] = pulse{beat: r.Beat, seenAt: f.clock()}
			continue
		}
		expired := asked - last.seenAt - f.deadAfter() - f.lease
		if r.ID == f.replica || expired < 0 {
			continue
		}
		if err := f.store.BuryReplica(ctx, r.ID, int(expired.Milliseconds())); err != nil {
			return err
		}
	}
	for id := range others {
		if !known[id] {
			delete(others, id)
		}
	}
	return nil
}

// forget drops revocations that are complete whatever happens.
func (f *Feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, t := range f.tallies {
		if f.clock()-t.seenAt > tallyLife {
			delete(f.tallies, key)
		}
	}
}
