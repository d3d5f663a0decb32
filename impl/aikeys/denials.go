package aikeys

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/agentrouter/aikeys/models"
)

const (
	// denialWindow is how long repeated denied attempts are counted before an event is written for them.
	denialWindow = time.Minute
	// maxDenialTargets is how many different attempts of a user in a project are counted separately in a window.
	// Further attempts are counted only by their type.
	maxDenialTargets = 20
	// maxDenials is the maximum number of counts, which bounds their memory. An attempt for which there is no count
	// gets an event of its own.
	maxDenials = 10_000
)

// Denials writes the events of denied attempts. It writes the first attempt of a kind at once, counts the repetitions,
// and writes one event for all repetitions when the window ends. It can't update the first event instead, because the
// service's database user may add events but not change them. If the process crashes, its counts are lost.
type Denials struct {
	store *models.Store
	log   *slog.Logger
	ids   models.IDs
	room  int // the maximum number of entries in counting

	mu       sync.Mutex               // guards the fields below
	counting map[models.Event]*denial // :: the fields that repeated attempts share → the attempts not yet written
	targets  map[[3]string]int        // :: customer, project and user → their entries in counting
}

// denial counts attempts that are not written yet.
type denial struct {
	last    models.Event
	count   int64
	firstAt int64
}

func (d *denial) add(event models.Event) {
	if d.count == 0 {
		d.firstAt = event.At
	}
	d.count, d.last = d.count+1, event
}

// NewDenials returns a Denials. Run writes the attempts that it counts.
func NewDenials(store *models.Store, log *slog.Logger) *Denials {
	return &Denials{store: store, log: log, room: maxDenials, counting: map[models.Event]*denial{}, targets: map[[3]string]int{}}
}

// Run writes the repetitions at the end of each window, and once more when ctx ends.
func (d *Denials) Run(ctx context.Context) error {
	ticker := time.NewTicker(denialWindow)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			d.Flush(context.WithoutCancel(ctx))
			return nil
		case <-ticker.C:
			d.Flush(ctx)
		}
	}
}

// record writes the event of a denied attempt, or counts it as a repetition.
func (d *Denials) record(ctx context.Context, event models.Event) error {
	counted, isRepeated := d.find(event)
	if isRepeated {
		return nil
	}
	err := d.store.Transact(ctx, func(tx *models.Tx) error { return tx.AppendEvent(event) })
	if err != nil && counted != nil { // Flush tries again at the end of the window
		d.mu.Lock()
		defer d.mu.Unlock()
		counted.add(event)
	}
	return err
}

// find returns the count of an attempt's repetitions, and reports whether this attempt is a repetition. If the attempt
// is a repetition, find adds it to the count. If the attempt needs a new count and there is no room for one, counted is
// nil.
func (d *Denials) find(event models.Event) (counted *denial, isRepeated bool) {
	key, user := event, [3]string{event.CustomerID, event.ProjectID, event.ActorUserID}
	key.ID, key.At, key.RequestID = "", 0, ""
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counting[key] == nil && d.targets[user] >= maxDenialTargets {
		key = models.Event{
			CustomerID: event.CustomerID, ProjectID: event.ProjectID, ScopeUserID: event.ScopeUserID, ActorUserID: event.ActorUserID, Type: event.Type,
		}
	}
	if counted = d.counting[key]; counted != nil {
		counted.add(event)
		return counted, true
	}
	if len(d.counting) >= d.room {
		return nil, false
	}
	counted = &denial{}
	d.counting[key] = counted
	d.targets[user]++
	return counted, false
}

// Flush ends the window: it writes an event for each attempt that was repeated. After an error it keeps the rest for the next window.
func (d *Denials) Flush(ctx context.Context) {
	d.mu.Lock()
	keys := make([]models.Event, 0, len(d.counting))
	for key := range d.counting {
		keys = append(keys, key)
	}
	d.mu.Unlock()
	for _, key := range keys {
		if err := d.flush(ctx, key); err != nil {
			d.log.WarnContext(ctx, "denied attempts are not in the audit trail yet", slog.String("error", err.Error()))
			return
		}
	}
}

// flush writes the repetitions of one attempt.
func (d *Denials) flush(ctx context.Context, key models.Event) error {
	d.mu.Lock()
	counted := d.counting[key]
	written := *counted
	d.mu.Unlock()
	if written.count > 0 {
		event := written.last
		event.ID = d.ids.Next(models.EventIDPrefix, time.UnixMicro(max(event.At, time.Now().UnixMicro())))
		event.Repeated, event.FirstAt = written.count, written.firstAt
		if err := d.store.Transact(ctx, func(tx *models.Tx) error { return tx.AppendEvent(event) }); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if counted.count -= written.count; counted.count > 0 { // more were recorded during the write
		counted.firstAt = counted.last.At
		return nil
	}
	delete(d.counting, key)
	user := [3]string{key.CustomerID, key.ProjectID, key.ActorUserID}
	if d.targets[user]--; d.targets[user] == 0 {
		delete(d.targets, user)
	}
	return nil
}
