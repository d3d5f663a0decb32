package feed

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
)

const (
	// saveDelay is how long acknowledgements gather before their count is stored.
	saveDelay = 20 * time.Millisecond
	// maxRows bounds how many receipts are stored, and how many streams are deleted, at once.
	maxRows = 500
	// lookPause is the least time between two reads of a receipt that somebody waits for.
	lookPause = 10 * time.Millisecond
	// tallyLife is how long a stop is remembered: longer than any data plane may serve without asking.
	tallyLife = time.Hour + time.Minute
	// maxListed is how many data planes each list of a receipt has.
	maxListed = 100
)

// tally counts the acknowledgements of one stop by the streams of this replica. Feed.mu guards the counts; nothing changes the
// other fields.
type tally struct {
	stop   models.Stop
	id     string        // the stop's
	seenAt time.Duration // when this replica read the stop

	dataPlanes   int                  // streams that have to acknowledge it
	waiting      map[*Stream]struct{} // streams that have not, and may still serve from their caches
	acknowledged int
	slowest      time.Duration             // the longest time from seenAt to an acknowledgement
	counted      int                       // acknowledgements that said how many requests were in flight
	inFlight     int64                     // the sum of these requests
	byDataPlane  []models.DataPlaneReceipt // of the streams that are no longer waited for
}

// openTallies opens a tally for each stop. Each tally waits for every stream whose data plane serves the customer,
// including streams that have ended but whose leases may still run. The caller holds mu.
func (f *Feed) openTallies(changes []models.Change) {
	now := f.clock()
	for _, c := range changes {
		stop, ok := c.Stop()
		if !ok {
			continue
		}
		t := f.newTally(stop, now)
		for _, s := range f.streams {
			if s.DataPlane.Serves(c.CustomerID) {
				f.addToTally(s, t)
			}
		}
	}
}

func (f *Feed) newTally(stop models.Stop, seenAt time.Duration) *tally {
	t := &tally{stop: stop, id: stop.ID(), seenAt: seenAt, waiting: map[*Stream]struct{}{}}
	f.tallies[t.id] = t
	return t
}

// addToTally makes a tally wait for a stream. The caller holds mu.
func (f *Feed) addToTally(s *Stream, t *tally) {
	s.pending = append(s.pending, t)
	t.waiting[s] = struct{}{}
	t.dataPlanes++
	f.unsaved[t.id] = t
}

// dropFromTallies removes a stream from the tallies that wait for it. The caller holds mu.
func (f *Feed) dropFromTallies(s *Stream) {
	for _, t := range s.pending {
		delete(t.waiting, s)
		t.dataPlanes--
		f.unsaved[t.id] = t
	}
	s.pending = nil
}

// expirePending records that the lease of a stream has ended, in the tallies that wait for the stream. The caller holds
// mu.
func (f *Feed) expirePending(s *Stream) {
	for _, t := range s.pending {
		delete(t.waiting, s)
		t.byDataPlane = addDataPlane(t.byDataPlane, models.DataPlaneReceipt{Name: s.DataPlane.Name, Streams: 1, Expired: 1})
		f.unsaved[t.id] = t
	}
	s.pending = nil
}

// movePending makes the tallies that wait for one stream wait for another stream of the same data plane. The caller
// holds mu.
func movePending(from, to *Stream) {
	for _, t := range from.pending {
		delete(t.waiting, from)
		t.waiting[to] = struct{}{}
	}
	to.pending, from.pending = append(to.pending, from.pending...), nil
}

// forgetOldTallies deletes the tallies of stops that are so old that they are complete.
func (f *Feed) forgetOldTallies() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, t := range f.tallies {
		if f.clock()-t.seenAt > tallyLife {
			delete(f.tallies, id)
		}
	}
}

// adoptPending makes this replica's tallies wait for a stream that continues a stream of another replica. The row of
// the other stream is about to be deleted. After that, receipts would not count the data plane for stops that it has
// yet to read. So the tallies of stops that this replica has already read wait for the new stream, and are stored
// before the row is deleted.
func (f *Feed) adoptPending(ctx context.Context, s *Stream, start position.Position, missed []models.Change) error {
	owed := f.talliesOwed(s, start, missed)
	if len(owed) == 0 {
		return nil
	}
	// By the position to resume from, the data plane acknowledges the changes that it has acted on.
	err := f.store.ForwardAcknowledgement(ctx, s.Previous, s.DataPlane.ID, *s.Resume, nil)
	if errors.Is(err, models.ErrNotFound) {
		return nil // the previous stream's lease has run out, or a later stream has replaced it
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	for _, t := range owed {
		f.addToTally(s, t)
	}
	f.mu.Unlock()
	return f.saveReceipts(ctx)
}

// talliesOwed returns the tallies of stops that the data plane has yet to read, and whose keys it may still use. It returns none if
// this replica has the previous stream, whose tallies markPersisted moves.
func (f *Feed) talliesOwed(s *Stream, start position.Position, missed []models.Change) []*tally {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.streams[s.Previous]; old != nil && old.DataPlane.ID == s.DataPlane.ID {
		return nil
	}
	for _, c := range missed { // some changes may be from before this replica's first read
		if stop, ok := c.Stop(); ok && start.Contains(c.Tx) && f.tallies[stop.ID()] == nil {
			f.newTally(stop, f.adoptedAt)
		}
	}
	var owed []*tally
	for _, t := range f.tallies {
		if start.Contains(t.stop.Tx) && !s.Resume.Contains(t.stop.Tx) && s.DataPlane.Serves(t.stop.CustomerID) &&
			f.clock()-t.seenAt < f.params.lease+s.MaxStale {
			owed = append(owed, t)
		}
	}
	return owed
}

// Acknowledge records that a data plane has acted on everything up to a position. It also records, by key id, how many
// requests with the dropped keys were in flight. If another replica has the stream, Acknowledge stores both for that
// replica. If no replica has the stream, the error is models.ErrNotFound: the stream and its lease have ended.
func (f *Feed) Acknowledge(ctx context.Context, dataPlaneID, streamID string, at position.Position, inFlight map[string]int) error {
	if f.acknowledgeHere(dataPlaneID, streamID, at, inFlight) {
		return nil
	}
	return f.store.ForwardAcknowledgement(ctx, streamID, dataPlaneID, at, inFlight)
}

// acknowledgeHere counts an acknowledgement if the stream is this replica's, and reports whether it is.
func (f *Feed) acknowledgeHere(dataPlaneID, streamID string, at position.Position, inFlight map[string]int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.streams[streamID]
	if s == nil || s.DataPlane.ID != dataPlaneID {
		return false
	}
	now := f.clock()
	s.acknowledgedAt = now
	waiting := s.pending[:0]
	for _, t := range s.pending {
		if !at.Contains(t.stop.Tx) {
			waiting = append(waiting, t)
			continue
		}
		delete(t.waiting, s)
		requests, counts := inFlight[t.stop.Subject]
		t.countAcknowledgement(s.DataPlane.Name, now-t.seenAt, requests, counts)
		f.unsaved[t.id] = t
		if t.acknowledged == t.dataPlanes {
			signal(f.saveSignal)
		}
	}
	s.pending = waiting
	return true
}

// countAcknowledgement counts the acknowledgement of one stream. counts is whether the acknowledgement said how many
// requests were in flight.
func (t *tally) countAcknowledgement(dataPlane string, took time.Duration, requests int, counts bool) {
	one := models.DataPlaneReceipt{Name: dataPlane, Streams: 1, Acknowledged: 1, SlowestUs: max(1, took.Microseconds())}
	if counts {
		one.Counted, one.InFlight = 1, int64(requests)
	}
	t.slowest = max(t.slowest, took)
	t.acknowledged++
	t.counted += one.Counted
	t.inFlight += one.InFlight
	t.byDataPlane = addDataPlane(t.byDataPlane, one)
}

// addDataPlane adds the counts of one data plane to a list. If the list gets long, it drops entries that no receipt would show.
func addDataPlane(list []models.DataPlaneReceipt, one models.DataPlaneReceipt) []models.DataPlaneReceipt {
	if i := slices.IndexFunc(list, func(d models.DataPlaneReceipt) bool { return d.Name == one.Name }); i >= 0 {
		list[i].Streams += one.Streams
		list[i].Acknowledged += one.Acknowledged
		list[i].Expired += one.Expired
		list[i].SlowestUs = max(list[i].SlowestUs, one.SlowestUs)
		list[i].Counted += one.Counted
		list[i].InFlight += one.InFlight
		return list
	}
	if list = append(list, one); len(list) > 4*maxListed {
		slices.SortFunc(list, byInFlight)
		slices.SortFunc(list[maxListed:], byProgress)
		list = list[:2*maxListed]
	}
	return list
}

// byInFlight orders data planes: most requests in flight first.
func byInFlight(a, b models.DataPlaneReceipt) int {
	return cmp.Or(cmp.Compare(b.InFlight, a.InFlight), cmp.Compare(a.Name, b.Name))
}

// byProgress orders data planes: those that have not acknowledged first, then the slowest.
func byProgress(a, b models.DataPlaneReceipt) int {
	return cmp.Or(cmp.Compare(min(1, b.Streams-b.Acknowledged), min(1, a.Streams-a.Acknowledged)), cmp.Compare(b.SlowestUs, a.SlowestUs), cmp.Compare(a.Name, b.Name))
}

// takeForwarded counts the acknowledgements of this replica's streams that reached other replicas.
func (f *Feed) takeForwarded(ctx context.Context) error {
	f.mu.Lock()
	streams := len(f.streams)
	f.mu.Unlock()
	if streams == 0 {
		return nil
	}
	forwarded, err := f.store.TakeForwarded(ctx, f.replicaID)
	for _, s := range forwarded {
		if at, parseErr := position.Parse(s.Forwarded); parseErr == nil {
			f.acknowledgeHere(s.DataPlaneID, s.ID, at, s.InFlight())
		}
	}
	return err
}

// saveReceipts stores the counts that have changed.
func (f *Feed) saveReceipts(ctx context.Context) error {
	f.saveMu.Lock()
	defer f.saveMu.Unlock()
	for {
		rows := f.takeUnsaved()
		if len(rows) == 0 {
			return nil
		}
		if err := f.store.SaveReceipts(ctx, rows); err != nil {
			f.mu.Lock()
			for _, row := range rows {
				if t := f.tallies[row.StopID]; t != nil {
					f.unsaved[t.id] = t
				}
			}
			f.mu.Unlock()
			return err
		}
	}
}

func (f *Feed) takeUnsaved() []models.Receipt {
	f.mu.Lock()
	defer f.mu.Unlock()
	var rows []models.Receipt
	for id, t := range f.unsaved {
		if len(rows) == maxRows {
			break
		}
		delete(f.unsaved, id)
		rows = append(rows, models.Receipt{
			StopID: id, ReplicaID: f.replicaID, DataPlanes: t.dataPlanes, Acknowledged: t.acknowledged, SlowestUs: t.slowest.Microseconds(),
			Counted: t.counted, InFlight: t.inFlight, ByDataPlane: t.listDataPlanes(),
		})
	}
	return rows
}

// listDataPlanes returns the progress of the data planes. It includes at most maxListed streams that the tally still
// waits for.
func (t *tally) listDataPlanes() []models.DataPlaneReceipt {
	list, waiting := slices.Clone(t.byDataPlane), 0
	for s := range t.waiting {
		if waiting++; waiting > maxListed {
			break
		}
		list = addDataPlane(list, models.DataPlaneReceipt{Name: s.DataPlane.Name, Streams: 1})
	}
	return list
}

// Receipt is the state of a stop.
type Receipt struct {
	Complete bool
	// DataPlanes is how many streams have to acknowledge the stop, Acknowledged how many have.
	DataPlanes, Acknowledged int
	// Slowest is how long the slowest acknowledgement took, or zero before the first.
	Slowest time.Duration
	// Remaining is the longest time until the receipt is complete.
	Remaining time.Duration
	// Counted is how many of the Acknowledged streams reported how many requests were in flight when they dropped the
	// key. InFlight is the sum of these requests.
	Counted  int
	InFlight int64
	// ByDataPlane has the acknowledgements of at most maxListed data planes, those with most requests in flight first.
	ByDataPlane []models.DataPlaneReceipt
	// Planes lists the progress of at most maxListed data planes: first those that have not acknowledged, then the
	// slowest.
	Planes []Plane
}

// Plane is how far a data plane has got with a stop.
type Plane struct {
	Name  string
	State PlaneState
	// Took is how long its acknowledgement took, or zero if that is not known.
	Took time.Duration
}

// PlaneState is whether a data plane has acknowledged a stop.
type PlaneState string

// The states of a data plane. In PlaneLeaseExpired, the data plane has not acknowledged the stop, but its lease has
// ended, so it serves nothing without asking the control plane.
const (
	PlaneWaiting      PlaneState = "waiting"
	PlaneAcknowledged PlaneState = "acknowledged"
	PlaneLeaseExpired PlaneState = "lease_expired"
)

// Receipt returns the receipt of a stop.
func (f *Feed) Receipt(ctx context.Context, stop models.Stop) (Receipt, error) {
	if stop.Tx == 0 {
		return Receipt{Complete: true}, nil
	}
	rows, unheard, err := f.store.Receipts(ctx, stop)
	if err != nil {
		return Receipt{}, err
	}
	r := Receipt{DataPlanes: len(unheard)}
	var all []models.DataPlaneReceipt
	for _, row := range rows {
		r.DataPlanes += row.DataPlanes
		r.Acknowledged += row.Acknowledged
		r.Slowest = max(r.Slowest, time.Duration(row.SlowestUs)*time.Microsecond)
		r.Counted += row.Counted
		r.InFlight += row.InFlight
		for _, d := range row.ByDataPlane {
			all = addDataPlane(all, d)
		}
	}
	for _, name := range unheard[:min(len(unheard), maxListed)] {
		all = addDataPlane(all, models.DataPlaneReceipt{Name: name, Streams: 1})
	}
	if r.Complete = r.Acknowledged >= r.DataPlanes; !r.Complete {
		longest, err := f.store.LongestStale(ctx, stop.CustomerID)
		if err != nil {
			return Receipt{}, err
		}
		r.Remaining = max(0, f.params.lease+time.Duration(longest)*time.Millisecond-f.age(stop))
		r.Complete = r.Remaining == 0
	}
	r.setLists(all)
	return r, nil
}

// setLists fills in the lists of data planes.
func (r *Receipt) setLists(all []models.DataPlaneReceipt) {
	slices.SortFunc(all, byProgress)
	for _, d := range all[:min(len(all), maxListed)] {
		plane := Plane{Name: d.Name, State: PlaneAcknowledged, Took: time.Duration(d.SlowestUs) * time.Microsecond}
		switch {
		case d.Streams > d.Acknowledged+d.Expired && !r.Complete:
			plane = Plane{Name: d.Name, State: PlaneWaiting}
		case d.Streams > d.Acknowledged:
			plane = Plane{Name: d.Name, State: PlaneLeaseExpired}
		}
		r.Planes = append(r.Planes, plane)
	}
	all = slices.DeleteFunc(all, func(d models.DataPlaneReceipt) bool { return d.Acknowledged == 0 })
	slices.SortFunc(all, byInFlight)
	r.ByDataPlane = all[:min(len(all), maxListed)]
}

// age returns how long this replica has known that a stop is committed. If the replica adopted a later position without
// reading the stop's change, the age counts from when it adopted the position. If the replica has yet to read the
// change, the age is 0: the stop may have been committed just now.
func (f *Feed) age(stop models.Stop) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tallies[stop.ID()]
	switch {
	case t != nil && t.stop.Tx == stop.Tx:
		return f.clock() - t.seenAt
	case f.ready && f.position.Contains(stop.Tx):
		return f.clock() - f.adoptedAt
	}
	return 0
}

// WaitForReceipt returns the receipt of a stop when it is complete, when the time to wait is over, or when Run ends.
func (f *Feed) WaitForReceipt(ctx context.Context, stop models.Stop, wait time.Duration) (Receipt, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		changed, next, stopped := f.nextLook(stop)
		if last := stopped || waiting.Err() != nil; last || next <= 0 {
			began := f.clock()
			look := f.shareReceipt
			if last {
				look = f.Receipt // a shared read may have begun before the last acknowledgement
			}
			r, err := look(ctx, stop)
			if err != nil || r.Complete || last {
				return r, err
			}
			sleep(waiting, max(lookPause, 4*(f.clock()-began))) // a slow database is asked less often
			next = r.Remaining
		}
		select {
		case <-changed:
		case <-time.After(next):
		case <-waiting.Done():
		}
	}
}

// shareReceipt is Receipt for several callers that wait for the same stop: one of them reads the database, and all get the answer.
func (f *Feed) shareReceipt(ctx context.Context, stop models.Stop) (Receipt, error) {
	answer := f.looks.DoChan(stop.ID(), func() (any, error) { return f.Receipt(context.WithoutCancel(ctx), stop) })
	select {
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	case got := <-answer:
		r, _ := got.Val.(Receipt)
		return r, got.Err
	}
}

// nextLook returns how long callers can wait before they read a receipt again, unless changed is closed first. Until
// then the receipt stays incomplete, because streams of this replica that hold leases have yet to acknowledge the stop.
// So callers do not make the database count all streams while the change is still being sent to them.
func (f *Feed) nextLook(stop models.Stop) (changed <-chan struct{}, next time.Duration, stopped bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tallies[stop.ID()]
	switch {
	case t != nil && t.stop.Tx == stop.Tx && t.acknowledged < t.dataPlanes:
		next = f.params.lease - (f.clock() - t.seenAt)
	case f.open > 0 && f.ready && !f.position.Contains(stop.Tx):
		next = lookPause // this replica is about to read the stop
	}
	return f.changed, next, f.stopped
}
