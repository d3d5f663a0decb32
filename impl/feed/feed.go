// Package feed streams changes to data planes, and keeps the receipts of stops. A stop revokes, disables or rotates a
// key, revokes an API key, or removes a member. Each replica of the service reads the changes from the database and
// sends them to the data planes that are connected to it. No replica depends on another. A stop is proved complete as
// follows:
//
//   - A heartbeat carries a time on this replica's monotonic clock: the start of the last read whose changes were all sent
//     before the heartbeat. The heartbeat extends the data plane's lease to that time plus the lease's length, however late
//     it arrives.
//   - So a data plane that has not been sent a stop loses its lease within the lease's length of the stop's commit. Together
//     with the longest grace that a data plane has declared, this bounds how long a receipt is pending. It needs no clock but
//     this process's own, and no other replica.
//   - Acknowledgements only make a receipt complete sooner.
//
// docs/feed.md draws the states of a stream and lists the goroutines. The package may import gen/dataplane and models.
package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
)

const (
	// heartbeatsPerLease leaves room for a late heartbeat: the next one is due while more than half of the lease is left.
	heartbeatsPerLease = 2.5
	// readPause is the least time between two reads, so that commits in quick succession share one.
	readPause = 2 * time.Millisecond
	// forwardPause is the least time between two reads of forwarded acknowledgements, and testPause between two reads
	// of tests of keys.
	forwardPause = 10 * time.Millisecond
	testPause    = 50 * time.Millisecond
)

// params are times and sizes that tests reduce.
type params struct {
	// lease is how long a heartbeat lets a data plane use its cache.
	lease time.Duration
	// maintenance is the time between two runs of runMaintenance, and between two heartbeats of the replica itself.
	maintenance time.Duration
	// replicaGrace is how long this replica extends leases after its own last heartbeat. The other replicas consider it
	// dead after twice that time. By then, the last lease that it extended has long ended.
	replicaGrace time.Duration
	// silence is how long a stream may go without an acknowledgement. Data planes send one every 5 s.
	silence time.Duration
	// maxChanges bounds the changes of one read. A read that reaches it resets every stream.
	maxChanges int
	// maxBacklog is how many changes a stream may have missed and still resume. Only changes of its data plane's customers count.
	maxBacklog int
}

var production = params{
	lease: time.Second, maintenance: time.Second, replicaGrace: 5 * time.Second, silence: 30 * time.Second, maxChanges: 5_000, maxBacklog: 1_000,
}

// Store is what the feed needs of the database; *models.Store is one.
type Store interface {
	Watch(ctx context.Context, wake func()) error
	Position(ctx context.Context) (position.Position, error)
	Changes(ctx context.Context, since position.Position, limit int) ([]models.Change, position.Position, error)

	OpenStream(ctx context.Context, stream models.Stream, previous string) error
	DropStreams(ctx context.Context, ids []string) error
	StreamIDs(ctx context.Context, replicaID string) ([]string, error)
	LiveDataPlanes(ctx context.Context, ids []string, now int64) ([]string, error)

	RecordHeartbeat(ctx context.Context, replicaID string) error
	Replicas(ctx context.Context) ([]models.Replica, error)
	DeleteDeadReplica(ctx context.Context, r models.Replica, maxStaleMs int) error

	ForwardAcknowledgement(ctx context.Context, id, dataPlaneID string, at position.Position, inFlight map[string]int) error
	CountServingStreams(ctx context.Context) ([]models.ServingStreams, error)
	TakeForwarded(ctx context.Context, replicaID string) ([]models.Stream, error)
	WaitingKeyTests(ctx context.Context, now int64) ([]models.KeyTest, error)
	SaveReceipts(ctx context.Context, receipts []models.Receipt) error
	Receipts(ctx context.Context, stop models.Stop) (receipts []models.Receipt, unheard []string, err error)
	LongestStale(ctx context.Context, customerID string) (int, error)
}

// Config is what a Feed needs. Store is required.
type Config struct {
	Store Store
	// Log may be nil; then nothing is logged.
	Log *slog.Logger
	// Metrics may be nil; then no metrics are registered.
	Metrics prometheus.Registerer
}

// Feed is the feed of one replica. It does nothing until Run is called.
type Feed struct {
	// New sets these, and nothing changes them afterwards.
	store     Store
	log       *slog.Logger
	metrics   *metrics
	replicaID string
	started   time.Time // the origin of clock
	params    params

	ids   models.IDs         // safe for concurrent use
	looks singleflight.Group // reads of a receipt that several callers wait for, by the stop's id

	// Each signal channel holds one signal. Until it is received, further signals add nothing.
	readSignal    chan struct{} // changes may have been committed
	forwardSignal chan struct{} // acknowledgements may have been forwarded to this replica
	testSignal    chan struct{} // a test of a key may wait
	saveSignal    chan struct{} // a tally is complete, so its receipt is worth storing at once

	backlogSlots chan struct{} // has an element for each stream that is reading its backlog

	// peers holds the last heartbeats of all replicas, by id. Only runMaintenance uses it.
	peers map[string]peer

	// saveMu is held while receipts are stored, so that an older count never replaces a newer one. Lock it before mu.
	saveMu sync.Mutex
	// replicaMu is held while this replica stores its own heartbeat. Lock it before mu.
	replicaMu sync.Mutex

	// mu guards everything below, and the fields of Stream and tally whose comments name it. It is never held during
	// I/O.
	mu sync.Mutex
	// position holds every change that the open streams have been sent.
	position position.Position
	// ready reports whether position has been read from the database.
	ready bool
	// readAt is when the read that led to position began.
	readAt time.Duration
	// adoptedAt is when this replica last adopted a position whose changes it had not read. All of them were committed by then.
	adoptedAt time.Duration
	// replicaHeartbeatAt is when this replica began to store its last stored heartbeat.
	replicaHeartbeatAt time.Duration
	// changed is closed and replaced whenever a receipt may have changed.
	changed chan struct{}
	// stopped reports whether Run has ended.
	stopped bool
	// streams holds all streams by id, from joined to draining; open counts those that have not ended.
	streams map[string]*Stream
	open    int
	// serving counts the streams of all replicas, for data planes that share a key's limits. It is nil before the first
	// count. It is replaced when a count differs, or when a stream has joined since the last count (joined).
	serving *serving
	joined  bool
	// tallies holds the stops of the last hour by their ids; unsaved holds those whose count is not stored yet.
	tallies, unsaved map[string]*tally
}

// New returns a Feed.
func New(cfg Config) (*Feed, error) {
	f := &Feed{
		store: cfg.Store, log: cfg.Log, started: time.Now(), params: production,
		readSignal: make(chan struct{}, 1), forwardSignal: make(chan struct{}, 1),
		testSignal: make(chan struct{}, 1), saveSignal: make(chan struct{}, 1),
		backlogSlots: make(chan struct{}, maxBacklogReads), peers: map[string]peer{}, changed: make(chan struct{}),
		replicaHeartbeatAt: math.MinInt64 / 2, // never
		streams:            map[string]*Stream{}, tallies: map[string]*tally{}, unsaved: map[string]*tally{},
	}
	f.replicaID = f.ids.Next("", f.started)
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	var err error
	f.metrics, err = newMetrics(f, cfg.Metrics)
	return f, err
}

// clock returns the time since the feed was made. It is monotonic: setting the time of day does not change it.
func (f *Feed) clock() time.Duration { return time.Since(f.started) }

// heartbeatInterval is the time between two heartbeats while nothing changes.
func (f *Feed) heartbeatInterval() time.Duration {
	return time.Duration(float64(f.params.lease) / heartbeatsPerLease)
}

// duty is work that the feed repeats. Each duty has its own goroutine, so a duty that waits for the database does not
// delay the others.
type duty struct {
	interval time.Duration
	signal   <-chan struct{} // runs the duty before the interval is over; may be nil
	pause    time.Duration   // the least time between two runs
	run      func(context.Context) error
	problem  string // what the log says when run begins to fail
}

// Run serves streams until ctx ends, and then ends all of them. If the database can't be reached yet, it waits, and no stream
// opens until it can.
func (f *Feed) Run(ctx context.Context) error {
	defer f.endAllStreams()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.store.Watch(ctx, f.wake) })
	group.Go(func() error { f.followChanges(ctx); return nil })
	for _, d := range []duty{
		{
			interval: f.params.maintenance, run: f.sendReplicaHeartbeat,
			problem: "the heartbeat of this replica can't be stored; data planes get no leases unless that ends soon",
		},
		{
			interval: f.heartbeatInterval(), signal: f.forwardSignal, pause: forwardPause, run: f.takeForwarded,
			problem: "acknowledgements that other replicas took can't be read",
		},
		{
			interval: f.heartbeatInterval(), signal: f.testSignal, pause: testPause, run: f.announceKeyTests,
			problem: "tests of keys for data planes can't be read",
		},
		{
			interval: saveDelay, signal: f.saveSignal, run: f.saveReceipts,
			problem: "receipts can't be stored",
		},
		{
			interval: f.params.maintenance, run: f.runMaintenance,
			problem: "streams and replicas that have ended can't be looked for",
		},
	} {
		group.Go(func() error { f.repeatDuty(ctx, d); return nil })
	}
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("feed: %w", err)
	}
	return nil
}

// repeatDuty runs a duty at once, and again until ctx ends.
func (f *Feed) repeatDuty(ctx context.Context, d duty) {
	ticker := time.NewTicker(d.interval)
	defer ticker.Stop()
	for failing := false; ; {
		err := d.run(ctx)
		if ctx.Err() != nil {
			return
		}
		failing = f.logProblem(ctx, d.problem, failing, err)
		sleep(ctx, d.pause)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-d.signal:
		}
	}
}

// logProblem logs when a duty begins to fail, and when it succeeds again. It reports whether the duty fails.
func (f *Feed) logProblem(ctx context.Context, problem string, wasFailing bool, err error) bool {
	switch {
	case err != nil && !wasFailing:
		f.log.WarnContext(ctx, problem, slog.String("error", err.Error())) //nolint:sloglint // the texts are constants
	case err == nil && wasFailing:
		f.log.InfoContext(ctx, "the database answers again", slog.String("solved", problem))
	}
	return err != nil
}

// sleep returns after d, or as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// wake signals that something may have been committed.
func (f *Feed) wake() {
	signal(f.readSignal)
	signal(f.forwardSignal)
	signal(f.testSignal)
}

// signal sends a signal, unless a signal is waiting already.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// followChanges reads changes when it starts, whenever something may have been committed, and once per heartbeat
// interval. Leases depend on this loop, so it waits for nothing but its own read. The read uses a connection that
// requests can't take.
func (f *Feed) followChanges(ctx context.Context) {
	interval := f.heartbeatInterval()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for failing, due := false, true; ; {
		sent, err := f.readChanges(ctx, due)
		if ctx.Err() != nil {
			return
		}
		if sent {
			ticker.Reset(interval) // changes bring a heartbeat with them, so the next is due an interval later
		}
		due = due && err != nil
		failing = f.logProblem(ctx, "changes can't be read; data planes get no leases until they can", failing, err)
		sleep(ctx, readPause)
		select {
		case <-ctx.Done():
			return
		case <-f.readSignal:
		case <-ticker.C:
			due = true
		}
	}
}

// readChanges reads changes once and sends them to the streams, with a heartbeat if one is due or something has
// changed. It reports whether it has sent a heartbeat. The heartbeat carries the time at which the read began, because
// it must not vouch for commits after that time.
func (f *Feed) readChanges(ctx context.Context, due bool) (sent bool, err error) {
	f.mu.Lock()
	since, ready := f.position, f.ready
	f.mu.Unlock()
	began := f.clock()
	if !ready {
		now, err := f.store.Position(ctx)
		if err != nil {
			return false, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.adoptPosition(now, began)
		return false, nil
	}
	changes, now, err := f.store.Changes(ctx, since, f.params.maxChanges)
	switch {
	case err != nil:
		return false, err
	case now.Xmax < since.Xmax || !now.SameTimeline(since):
		f.log.WarnContext(ctx, "the database has gone back to an earlier state, or another server has become its primary; data planes drop their caches and reconnect")
		f.endRestoredStreams(now, began)
		return false, nil
	case len(changes) == f.params.maxChanges:
		f.log.WarnContext(ctx, "too much has changed to tell; data planes drop their caches")
		f.resetStreams(now, began)
		return false, nil
	}
	return f.publishChanges(changes, now, began, due), nil
}

// publishChanges moves the feed to a position and sends every stream the changes that led there, with a heartbeat. It reports
// whether it has sent a heartbeat.
func (f *Feed) publishChanges(changes []models.Change, now position.Position, began time.Duration, due bool) bool {
	frames, whole := make([]customerFrame, len(changes)), []byte(nil) // whole is shared by all streams that may be sent everything
	for i, c := range changes {
		frames[i] = customerFrame{c.CustomerID, changeFrame(c)}
		whole = append(whole, frames[i].text...)
		f.metrics.changes.WithLabelValues(string(c.Type)).Inc()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.position, f.readAt = now, began
	f.openTallies(changes)
	f.broadcastChanged()
	if len(changes) == 0 && !due {
		return false
	}
	heartbeat := f.nextHeartbeat(nil)
	whole = append(whole, heartbeat...)
	for _, s := range f.streams {
		isNews := heartbeat != nil && s.serving != f.serving
		switch {
		case isNews:
			s.serving, s.uncounted = f.serving, 0
			f.sendMessage(s, append(s.framesServed(frames), f.nextHeartbeat(s)...))
		case s.DataPlane.Customers != nil && len(changes) > 0:
			f.sendMessage(s, append(s.framesServed(frames), heartbeat...))
		default:
			f.sendMessage(s, whole)
		}
	}
	return heartbeat != nil
}

// announceKeyTests tells the data planes that test keys which tests wait to be claimed.
func (f *Feed) announceKeyTests(ctx context.Context) error {
	waiting, err := f.store.WaitingKeyTests(ctx, time.Now().UnixMicro())
	if err != nil || len(waiting) == 0 {
		return err
	}
	frames := make([]customerFrame, len(waiting))
	for i, t := range waiting {
		frames[i] = customerFrame{t.CustomerID, frame(gen.StreamMessage{Type: "key_test", TestID: &t.ID})}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		if s.state == statePersisted && s.TestsKeys {
			f.sendMessage(s, s.framesServed(frames)) // one message, so that many tests fill no queue
		}
	}
	return nil
}

// sendMessage queues a message for a stream that is open. If the stream's queue is full, it ends the stream, so that it
// does not delay others. The data plane resumes. The caller holds mu.
func (f *Feed) sendMessage(s *Stream, message []byte) {
	if !s.isOpen() || len(message) == 0 {
		return
	}
	select {
	case s.queue <- message:
	default:
		f.endStream(s, endSlow)
	}
}

// nextHeartbeat returns the heartbeat that extends leases to the last read, or nil while this replica must not extend
// leases. If s is not nil, the heartbeat also tells that stream how many data planes serve. The caller holds mu.
func (f *Feed) nextHeartbeat(s *Stream) []byte {
	if !f.mayExtendLeases() {
		return nil
	}
	return heartbeatFrame(f.position, f.readAt, f.acknowledgeWithin(), s)
}

// acknowledgeWithin returns the time, in milliseconds, over which data planes spread their acknowledgements of a stop:
// about one acknowledgement per millisecond reaches this replica, and none arrives after its data plane's lease has run
// out. The caller holds mu.
func (f *Feed) acknowledgeWithin() int {
	return min(f.open, int(f.params.lease.Milliseconds())/2)
}

// adoptPosition moves the feed to a position whose changes it has not read. The caller holds mu.
func (f *Feed) adoptPosition(now position.Position, began time.Duration) {
	f.position, f.ready, f.readAt, f.adoptedAt = now, true, began, f.clock()
	f.broadcastChanged()
}

// broadcastChanged wakes everything that waits for a receipt. The caller holds mu.
func (f *Feed) broadcastChanged() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Changed returns a channel that is closed when something may have been committed, by any replica.
func (f *Feed) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Serve writes the stream as an HTTP response, until the data plane leaves, ctx ends, or the feed ends the stream. If the data plane
// does not read a message in time, its connection is closed; it reconnects and resumes.
func (s *Stream) Serve(ctx context.Context, w http.ResponseWriter) error {
	defer s.feed.closeStream(s)
	out := http.NewResponseController(w)
	if err := out.SetReadDeadline(time.Time{}); err != nil { // the server's deadline is meant for requests
		return fmt.Errorf("stream: %w", err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx must not hold messages back
	w.WriteHeader(http.StatusOK)
	select {
	case <-s.ended:
		return nil // the first message would begin a lease that no receipt waits for
	default:
	}
	// The data plane must read the end of the response in time, too.
	defer func() { _ = out.SetWriteDeadline(time.Now().Add(writeTimeout)) }()
	life := time.NewTimer(streamLife + rand.N(streamLife/2)) //nolint:gosec // spreads load, guards nothing
	defer life.Stop()
	for message := s.first; ; {
		if s.writeMessages(w, out, message) != nil {
			return nil // net/http closes the connection, since a write to it has failed
		}
		select {
		case message = <-s.queue:
		case <-s.ended:
			for range len(s.queue) {
				<-s.queue // no longer valid: only last may follow
			}
			_ = s.writeMessages(w, out, s.last)
			return nil
		case <-ctx.Done():
			return nil
		case <-life.C:
			return nil
		}
	}
}

// writeMessages writes a message, and those that have queued up behind it, within writeTimeout. It removes the deadline afterwards, because
// a deadline that passes between two writes would end a stream over HTTP/2.
func (s *Stream) writeMessages(w http.ResponseWriter, out *http.ResponseController, message []byte) error {
	if len(message) == 0 {
		return nil
	}
	if err := out.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := w.Write(message); err != nil {
		return err
	}
	for range len(s.queue) { // one flush for all of them costs little more than a flush for one
		if _, err := w.Write(<-s.queue); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return out.SetWriteDeadline(time.Time{})
}

// customerFrame is a server-sent event that only data planes which serve the customer may get.
type customerFrame struct {
	customerID string
	text       []byte
}

// framesServed returns the frames that the stream's data plane may get, in a slice of its own.
func (s *Stream) framesServed(frames []customerFrame) (served []byte) {
	for _, f := range frames {
		if s.DataPlane.Serves(f.customerID) {
			served = append(served, f.text...)
		}
	}
	return served
}

// helloFrame is the first frame of a stream. It rounds its time up, and heartbeatFrame rounds down, so that a lease may
// be too short, but never too long.
func (s *Stream) helloFrame(arrived time.Duration, within int) []byte {
	return frame(gen.StreamMessage{
		Type: "hello", SessionID: &s.id, ReplicaID: &s.feed.replicaID, ClockMs: new((arrived + time.Millisecond - 1).Milliseconds()),
		LeaseMs: new(int(s.feed.params.lease.Milliseconds())), AcknowledgeWithinMs: &within,
	})
}

// heartbeatFrame returns a heartbeat. It extends a lease until one lease length after the time at, and has the position
// to resume from. If s is not nil, the heartbeat also tells that stream how many data planes serve.
func heartbeatFrame(position position.Position, at time.Duration, within int, s *Stream) []byte {
	m := gen.StreamMessage{Type: "heartbeat", ClockMs: new(at.Milliseconds()), AcknowledgeWithinMs: &within}
	if s != nil {
		m.DataPlanes, m.DataPlanesByCustomer = s.serving.countsFor(s.DataPlane, s.uncounted)
	}
	return append([]byte("id: "+position.String()+"\n"), frame(m)...)
}

func changeFrame(c models.Change) []byte {
	message := gen.StreamMessage{
		Type: string(c.Type), Tx: &c.Tx, CustomerID: &c.CustomerID, ProjectID: &c.ProjectID,
		Provider: optional(c.Provider), KeyID: optional(c.KeyID), UserID: optional(c.UserID), TokenID: optional(c.TokenID),
	}
	if c.Version > 0 {
		message.Version = new(int(c.Version))
	}
	if left := time.Until(time.UnixMicro(c.RetireAt)).Milliseconds(); c.RetireAt > 0 && left > 0 {
		message.RetiresInMs = &left
	}
	return frame(message)
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// resetFrame makes the data plane drop its cache.
func resetFrame() []byte { return []byte("event: reset\ndata: {\"type\":\"reset\"}\n\n") }

// frame returns one server-sent event. JSON holds no line ends, so the data fits on one line.
func frame(message gen.StreamMessage) []byte {
	data, err := json.Marshal(message)
	if err != nil {
		return resetFrame() // can't happen, since there are only strings and numbers
	}
	return slices.Concat([]byte("event: "), []byte(message.Type), []byte("\ndata: "), data, []byte("\n\n"))
}
