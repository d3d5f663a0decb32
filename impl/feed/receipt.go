package feed

import (
	"context"
	"log/slog"
	"time"

	"github.com/agentrouter/aikeys/models"
)

const (
	// saveDelay is how long acknowledgements gather before they are stored.
	saveDelay = 20 * time.Millisecond
	// awaitPause is the least time between two looks at a receipt that is awaited; looks that take long come further apart.
	awaitPause = 10 * time.Millisecond
)

// Receipt is how far a revocation has come.
type Receipt struct {
	Complete bool
	// DataPlanes had to acknowledge it, Acknowledged have.
	DataPlanes, Acknowledged int
	// Slowest is how long the slowest acknowledgement took; zero while there is none.
	Slowest time.Duration
	// Remaining is, of one that is not complete, the time within which it must be.
	Remaining time.Duration
}

// Receipt returns the receipt of a revoked key.
func (f *Feed) Receipt(ctx context.Context, k models.Key) (Receipt, error) {
	if k.RevocationTx == 0 {
		return Receipt{Complete: true}, nil
	}
	rows, unheard, err := f.store.Receipts(ctx, k)
	if err != nil {
		return Receipt{}, err
	}
	r := Receipt{DataPlanes: unheard}
	for _, row := range rows {
		r.DataPlanes += row.DataPlanes
		r.Acknowledged += row.Acknowledged
		r.Slowest = max(r.Slowest, time.Duration(row.SlowestUs)*time.Microsecond)
	}
	if r.Acknowledged >= r.DataPlanes {
		r.Complete = true
		return r, nil
	}
	longest, err := f.store.LongestStale(ctx, k.CustomerID)
	if err != nil {
		return Receipt{}, err
	}
	r.Remaining = f.lease + time.Duration(longest)*time.Millisecond - f.age(k)
	if r.Remaining <= 0 {
		r.Complete, r.Remaining = true, 0
	}
	return r, nil
}

// age is how long a revocation has been known to be committed, on this replica's clock. One that this replica has not seen
// happen was there when it began to read; one that it has not read yet may just have been made.
func (f *Feed) age(k models.Key) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tallies[k.ID]
	switch {
	case t != nil && t.tx == k.RevocationTx:
		return f.clock() - t.seenAt
	case f.ready && f.position.Holds(k.RevocationTx):
		return f.clock() - f.since
	}
	return 0
}

// Await returns the receipt of a revoked key when it is complete, or else as it is when the time to wait is over or the feed
// stops.
func (f *Feed) Await(ctx context.Context, k models.Key, wait time.Duration) (Receipt, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		turn, stopped := f.awaitOwn(waiting, k)
		began := f.clock()
		r, err := f.Receipt(ctx, k)
		if err != nil || r.Complete || stopped || waiting.Err() != nil {
			return r, err
		}
		select {
		case <-time.After(max(awaitPause, 4*(f.clock()-began))):
		case <-waiting.Done():
		}
		select {
		case <-turn:
		case <-time.After(r.Remaining):
		case <-waiting.Done():
		}
	}
}

// awaitOwn waits while a receipt can't be complete for all that this replica knows. It returns what is closed at the next turn,
// and whether the feed has stopped.
func (f *Feed) awaitOwn(waiting context.Context, k models.Key) (turn <-chan struct{}, stopped bool) {
	for {
		f.mu.Lock()
		pending := f.pendingFor(k)
		turn, stopped = f.turn, f.stopped
		f.mu.Unlock()
		if pending <= 0 || stopped || waiting.Err() != nil {
			return turn, stopped
		}
		select {
		case <-turn:
		case <-time.After(pending):
		case <-waiting.Done():
		}
	}
}

// pendingFor returns for how long a receipt can't be complete before the next turn: while data planes of this replica, with
// leases, are yet to acknowledge the revocation. Then the database need not be asked, which would look at every stream just
// when all are to be told. A revocation that was not read yet is about to be.
func (f *Feed) pendingFor(k models.Key) time.Duration {
	t := f.tallies[k.ID]
	switch {
	case t != nil && t.tx == k.RevocationTx && t.acknowledged < t.dataPlanes:
		return f.lease - (f.clock() - t.seenAt)
	case len(f.streams) > 0 && f.ready && !f.position.Holds(k.RevocationTx):
		return awaitPause
	}
	return 0
}

// saveReceipts stores tallies as they change.
func (f *Feed) saveReceipts(ctx context.Context) error {
	ticker := time.NewTicker(saveDelay)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-f.complete:
		}
		err := f.flush(ctx)
		if (err != nil) != failing && ctx.Err() == nil {
			failing = err != nil
			f.log.WarnContext(ctx, "receipts of revocations can't be stored", slog.Bool("now", failing))
		}
	}
}

// saveNow has a tally stored at once that nobody need wait for any more.
func (f *Feed) saveNow() {
	select {
	case f.complete <- struct{}{}:
	default: // it is due already
	}
}

// maxRows bounds how many receipts are stored at once.
const maxRows = 500

// flush stores what has changed.
func (f *Feed) flush(ctx context.Context) error {
	f.saving.Lock()
	defer f.saving.Unlock()
	for {
		rows := f.takeUnsaved()
		if len(rows) == 0 {
			return nil
		}
		if err := f.store.SaveReceipts(ctx, rows); err != nil {
			f.putBack(rows)
			return err
		}
	}
}

func (f *Feed) takeUnsaved() []models.Receipt {
	f.mu.Lock()
	defer f.mu.Unlock()
	var rows []models.Receipt
	for key, t := range f.unsaved {
		if len(rows) == maxRows {
			break
		}
		delete(f.unsaved, key)
		rows = append(rows, models.Receipt{
			KeyID: key, ReplicaID: f.replica, DataPlanes: t.dataPlanes, Acknowledged: t.acknowledged, SlowestUs: t.slowest.Microseconds(),
		})
	}
	return rows
}

// putBack is for rows that were not stored.
func (f *Feed) putBack(rows []models.Receipt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, row := range rows {
		if t := f.tallies[row.KeyID]; t != nil {
			f.unsaved[row.KeyID] = t
		}
	}
}
