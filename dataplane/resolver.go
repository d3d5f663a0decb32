package dataplane

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/secret"
)

// never is the time of something that has not happened, such as the end of a lease that was never given. Durations may
// be added to it without overflow.
const never = time.Duration(math.MinInt64 / 2)

// initialLeaseTerm is the assumed length of a lease until the control plane has named it.
const initialLeaseTerm = time.Second

// Request names the caller or the key to resolve. Make one with ForCaller, ForUser or ByID. It prints without the
// credential.
type Request struct {
	// Credential is the caller's API key or session token, without "Bearer". With it, CustomerID and UserID are empty.
	Credential string
	CustomerID string
	// ProjectID may be empty with a Credential: then the project of the caller's session is used.
	ProjectID string
	// UserID may be empty: then users' own keys are not considered.
	UserID   string
	Provider string
	// KeyID asks for one key; every other field is empty then.
	KeyID string

	// limited are the ids of keys that are at a limit, with commas between: see Resolver.resolveNext.
	limited string
}

// ForCaller asks for the key that serves the caller with this credential. Set ProjectID to use another project than
// that of the caller's session.
func ForCaller(credential, provider string) Request {
	return Request{Credential: credential, Provider: provider}
}

// ForUser asks for the key that serves a user of a project. The caller of ForUser has authenticated the user. An empty
// user means no particular user.
func ForUser(customer, project, user, provider string) Request {
	return Request{CustomerID: customer, ProjectID: project, UserID: user, Provider: provider}
}

// ByID asks for one key, regardless of the project's policy.
func ByID(keyID string) Request { return Request{KeyID: keyID} }

// check returns an error if the request is not one of the three kinds: by credential, by user, by key id. The control
// plane checks the form of ids.
func (q *Request) check() error {
	switch {
	case q.KeyID != "":
		if *q != (Request{KeyID: q.KeyID}) {
			return fmt.Errorf("%w: a key's id excludes all other fields", ErrInvalid)
		}
	case q.Provider == "":
		return fmt.Errorf("%w: a provider or a key's id is required", ErrInvalid)
	case q.Credential != "":
		if q.CustomerID != "" || q.UserID != "" {
			return fmt.Errorf("%w: a credential excludes customer and user", ErrInvalid)
		}
	case q.CustomerID == "" || q.ProjectID == "":
		return fmt.Errorf("%w: a credential, or customer and project, are required", ErrInvalid)
	}
	return nil
}

// digest identifies a request in the cache. It is a hash so that the cache holds no caller's credential.
type digest [sha256.Size]byte

// digest returns the request's digest. It is on the hot path, and allocates nothing for an API key or a session token
// of the usual length. There are two buffer sizes because clearing the larger one takes as long as hashing an API key.
func (q *Request) digest() digest {
	const small = 192
	if len(q.Credential)+len(q.CustomerID)+len(q.ProjectID)+len(q.UserID)+len(q.Provider)+len(q.KeyID)+len(q.limited) <= small-7*2 {
		var buffer [small]byte
		return sha256.Sum256(q.encode(buffer[:0]))
	}
	return q.longDigest()
}

//go:noinline
func (q *Request) longDigest() digest {
	var buffer [4096]byte
	return sha256.Sum256(q.encode(buffer[:0]))
}

func (q *Request) encode(b []byte) []byte {
	b = appendField(b, q.Credential)
	b = appendField(b, q.CustomerID)
	b = appendField(b, q.ProjectID)
	b = appendField(b, q.UserID)
	b = appendField(b, q.Provider)
	b = appendField(b, q.KeyID)
	return appendField(b, q.limited)
}

// appendField appends the field's length and the field, so that no two requests share an encoding.
func appendField(b []byte, field string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(field))), field...)
}

// printableRequest is a Request without its methods, so that it prints field by field.
type printableRequest Request

// String prints the request without its credential.
func (q Request) String() string {
	if q.Credential != "" {
		q.Credential = secret.Text{}.String()
	}
	return fmt.Sprintf("%+v", printableRequest(q))
}

// Format prints the request without its credential, whatever the verb.
func (q Request) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, q.String()) }

// LogValue logs the request without its credential.
func (q Request) LogValue() slog.Value { return slog.StringValue(q.String()) }

// MarshalText keeps the credential out of JSON and other encodings.
func (q Request) MarshalText() ([]byte, error) { return []byte(q.String()), nil }

// Resolver finds the keys that serve requests. It is safe for concurrent use. It answers from its cache only while Run
// is running; without Run, each call of Resolve asks the control plane.
type Resolver struct {
	cfg       Config
	clock     Clock
	log       *slog.Logger
	metrics   *metrics
	client    *gen.Client // for single requests
	stream    *gen.Client // for the stream
	closeIdle func()      // closes the idle connections of client

	store      *store
	health     health
	credential credentialStatus
	reports    *reports
	usage      *usage
	limiter    limiter
	keyTests   chan string // ids of tests that wait at the control plane

	// leaseEnd is the time at which the lease ends, and leaseTerm is the length of a lease. Both are a time.Duration.
	// The stream writes them; Resolve reads them without a lock.
	leaseEnd  atomic.Int64
	leaseTerm atomic.Int64
	running   atomic.Bool
	// acknowledgeWithin is the time within which the control plane wants acknowledgements, as a time.Duration. After an
	// event, data planes spread their requests over this time.
	acknowledgeWithin atomic.Int64

	streamMu    sync.Mutex
	streamState streamState // guarded by streamMu
}

// New returns a Resolver. It opens no connection; Run does.
func New(cfg Config) (*Resolver, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Resolver{
		cfg: cfg, clock: cfg.Clock, log: cfg.Log, reports: newReports(), usage: newUsage(), keyTests: make(chan string),
		limiter: limiter{counted: map[string]*counts{}, aside: map[secretID]time.Duration{}},
	}
	r.leaseEnd.Store(int64(never))
	r.leaseTerm.Store(int64(initialLeaseTerm))
	r.credential.refusedAt.Store(int64(never))
	r.credential.acceptedAt.Store(int64(never))
	if r.client, r.stream, r.closeIdle, err = newClients(&r.cfg); err != nil {
		return nil, fmt.Errorf("data plane: %w", err)
	}
	if r.store, err = newStore(cfg.CacheSize, cfg.FetchTimeout); err != nil {
		return nil, fmt.Errorf("data plane: %w", err)
	}
	if r.metrics, err = newMetrics(cfg.Metrics, r); err != nil {
		return nil, fmt.Errorf("data plane: %w", err)
	}
	r.store.discarded = r.metrics.discarded
	return r, nil
}

// Run follows the stream of changes, acknowledges them and sends reports until ctx ends; then it returns nil. Before it
// returns, Run waits for the resolver's goroutines, except those of fetches, which end within FetchTimeout.
func (r *Resolver) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer r.running.Store(false)
	var others sync.WaitGroup
	others.Go(func() { r.sendReports(ctx) })
	others.Go(func() { r.sendUsage(ctx) })
	others.Go(func() { r.fetchReplacements(ctx) })
	if r.cfg.SendTest != nil {
		for range maxKeyTests {
			others.Go(func() { r.makeKeyTests(ctx) })
		}
	}
	r.followStream(ctx)
	others.Wait()
	r.closeIdle()
	return nil
}

// Resolve returns the key that serves a request. While that key is at a limit, Resolve returns the next key, with the
// Reason next_key_limited, if the project's policy allows it. An error wraps one of the package's sentinels, or is the
// error of ctx.
func (r *Resolver) Resolve(ctx context.Context, req Request) (*Key, error) {
	key, err := r.resolve(ctx, req)
	if err == nil && key.NextIfLimited && r.isAside(key) {
		return r.resolveNext(ctx, req, key)
	}
	return key, err
}

// resolve returns the key that serves a request, whether it is at a limit or not.
func (r *Resolver) resolve(ctx context.Context, req Request) (*Key, error) {
	id := req.digest()
	// The lease is read before the cache: if an entry is still cached afterwards, no event that the lease covers has
	// dropped it.
	now := r.clock.Now()
	if r.isLeased(now) {
		if e, ok := r.store.cache.GetIfPresent(id); ok && now < e.freshUntil {
			if now >= e.refreshFrom && e.refreshing.CompareAndSwap(false, true) {
				go r.refresh(ctx, e, req)
			}
			return r.hit(e)
		}
	}
	return r.miss(ctx, id, req)
}

// Watch calls ended when a use in progress must end: when the key is revoked, disabled or expired, when the caller's
// API key is revoked or the caller leaves the project, or when the control plane refuses this data plane's own
// credential. If events may have been missed, Watch calls ended with certain false; then call Resolve to find out
// whether the key still serves. Until stop is called, ended may be called several times, even before Watch returns.
// ended must not block or call the resolver.
func (r *Resolver) Watch(key *Key, ended func(certain bool)) (stop func()) {
	stopWatching := r.store.watchKey(key, ended)
	if key.endsAt == 0 {
		return stopWatching
	}
	ctx, cancel := context.WithCancel(context.Background())
	timer := time.AfterFunc(key.endsAt-r.clock.Now(), func() { r.endAtExpiry(ctx, key.ID, ended) })
	return func() {
		timer.Stop()
		cancel()
		stopWatching()
	}
}

// endAtExpiry calls ended when the key has expired. If the key's expiry has been postponed since the use began, it
// waits for the new expiry.
func (r *Resolver) endAtExpiry(ctx context.Context, id string, ended func(certain bool)) {
	for {
		key, err := r.Resolve(ctx, ByID(id))
		now := r.clock.Now()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil || key.endsAt != 0 && key.endsAt <= now:
			ended(true)
			return
		case key.endsAt == 0:
			return // if the key gets an expiry again, the event of that expiry ends the use
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(key.endsAt - now):
		}
	}
}

// Begin counts a request against the limits of the key that Resolve returned for it. Call end when the request and its answer have ended. The
// error is a *LimitError if the key has reached this data plane's share of a limit: refuse the request. Refused requests are not counted. The
// counts start at zero when the program starts.
func (r *Resolver) Begin(key *Key) (end func(), err error) {
	if key.Limits == nil {
		return func() {}, nil
	}
	end, limited := r.limiter.begin(key, time.Now(), r.clock.Now()) //nolint:forbidigo // limits are those of UTC's minutes and days
	if limited != nil {
		r.metrics.limited.WithLabelValues(limited.Limit).Inc()
		return nil, limited
	}
	return end, nil
}

// isLeased reports whether the cache may be used without asking the control plane.
func (r *Resolver) isLeased(now time.Duration) bool { return int64(now) < r.leaseEnd.Load() }

func (r *Resolver) hit(e *entry) (*Key, error) {
	if e.err != nil {
		r.metrics.negative.Inc()
		return nil, e.err
	}
	r.metrics.hit.Inc()
	return e.key, nil
}

// miss gets the answer from the control plane. Callers that want the same answer share one fetch. If the fetch takes
// long or fails, a stale key may serve.
func (r *Resolver) miss(ctx context.Context, id digest, req Request) (*Key, error) {
	if err := req.check(); err != nil {
		r.metrics.refused.Inc()
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	now := r.clock.Now()
	if reason := r.health.downReason(now, r.isLeased(now)); reason != nil {
		return r.withoutAnswer(id, reason)
	}
	p, e := r.store.fetch(ctx, id, func(e *entry) bool {
		now := r.clock.Now()
		return r.isLeased(now) && now < e.freshUntil
	}, r.asker(req))
	if e != nil {
		return r.hit(e)
	}
	return r.wait(ctx, p)
}

// asker returns the function that asks the control plane for the answer to a request.
func (r *Resolver) asker(req Request) asker {
	return func(ctx context.Context) (*entry, error) { return r.fetchKey(ctx, req) }
}

// refresh fetches an entry again while it still serves. If that fails, the next use of the entry tries again.
func (r *Resolver) refresh(ctx context.Context, e *entry, req Request) {
	defer e.refreshing.Store(false)
	if now := r.clock.Now(); r.health.downReason(now, r.isLeased(now)) != nil {
		return
	}
	p, _ := r.store.fetch(ctx, e.id, nil, r.asker(req))
	<-p.done
}

// wait returns the result of a fetch, or the stale key if one may serve and the fetch is slow.
func (r *Resolver) wait(ctx context.Context, p *pendingFetch) (*Key, error) {
	var slow <-chan time.Time
	if r.staleKey(p.id) != nil {
		slow = time.After(downFor)
	}
	for {
		select {
		case <-p.done:
			return r.result(p)
		case <-slow:
			if key := r.staleKey(p.id); key != nil {
				r.metrics.stale.Inc()
				return key, nil
			}
			slow = nil // an event has dropped the key
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// result returns the result of a finished fetch. If the control plane gave no answer, a stale key may serve.
func (r *Resolver) result(p *pendingFetch) (*Key, error) {
	switch {
	case p.err == nil:
		r.metrics.fetched.Inc()
		return p.key, nil
	case errors.Is(p.err, ErrUnavailable):
		return r.withoutAnswer(p.id, p.err)
	default:
		r.metrics.refused.Inc()
		return nil, p.err
	}
}

// withoutAnswer returns the stale key if one may serve, and otherwise why the control plane gave no answer.
func (r *Resolver) withoutAnswer(id digest, reason error) (*Key, error) {
	if r.credential.isRefused() || errors.Is(reason, ErrDataPlaneUnauthenticated) {
		r.metrics.refused.Inc()
		return nil, ErrDataPlaneUnauthenticated
	}
	if key := r.staleKey(id); key != nil {
		r.metrics.stale.Inc()
		return key, nil
	}
	r.metrics.unavailable.Inc()
	return nil, reason
}

// staleKey returns the cached key that may serve although the control plane does not answer, or nil. It never extends
// the validity of a caller's credential, and gives no grace after the data plane's own credential was refused.
func (r *Resolver) staleKey(id digest) *Key {
	if r.cfg.MaxStale == 0 || r.credential.isRefused() {
		return nil
	}
	now := r.clock.Now()
	graceEnd := time.Duration(r.leaseEnd.Load()) + r.cfg.MaxStale
	e, ok := r.store.cache.GetIfPresent(id)
	if !ok || e.err != nil || now >= graceEnd || now >= e.agedAt+r.cfg.MaxStale || now >= e.validUntil {
		return nil
	}
	return e.key
}

const (
	// downFor is how long no request is sent after the control plane could not be reached. It is also how long all
	// requests may go unanswered before the control plane counts as hanging.
	downFor = 250 * time.Millisecond
	// refusedFor is how long no request is sent after the control plane refused the data plane's credential. The
	// control plane counts refused requests and, after too many, accepts no more from their address.
	refusedFor = 3 * time.Second
)

// health records whether the control plane answers, as seen by ordinary requests; health sends no requests of its own.
// All times are the Clock's.
type health struct {
	mu          sync.Mutex    // guards every field
	inFlight    int           // requests sent and not yet answered
	silentSince time.Duration // since when no request in flight was answered
	answeredAt  time.Duration // when a request was last answered
	failure     error         // the outcome of the last request that ended; nil if it was answered
	failedAt    time.Duration
}

// requestSent records that a request is sent.
func (h *health) requestSent(now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inFlight == 0 {
		h.silentSince = now
	}
	h.inFlight++
}

// requestDone records the outcome of a request; failure is nil if it was answered. A failure is ignored if another
// request was answered since this one was sent.
func (h *health) requestDone(sent, now time.Duration, failure error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inFlight--
	switch {
	case failure == nil:
		h.silentSince, h.answeredAt, h.failure = now, now, nil
	case h.answeredAt <= sent:
		h.failedAt, h.failure = now, failure
	}
}

// streamOpened records that the control plane has answered on the stream, so that requests are sent again.
func (h *health) streamOpened(now time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silentSince, h.answeredAt, h.failure = now, now, nil
}

// downReason returns why a request would be useless now, or nil. Requests that hang count only without a lease: while
// heartbeats arrive, the control plane is merely slow.
func (h *health) downReason(now time.Duration, leased bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	pause := downFor
	if errors.Is(h.failure, ErrDataPlaneUnauthenticated) {
		pause = refusedFor
	}
	if h.failure != nil && now-h.failedAt < pause {
		return h.failure
	}
	if !leased && h.inFlight > 0 && now-h.silentSince >= downFor {
		return errSilent
	}
	return nil
}

// Status is the state of a Resolver.
type Status struct {
	// Connected reports whether a stream is open. Unauthenticated reports whether the control plane has refused the data
	// plane's credential and has not accepted it again.
	Connected, Unauthenticated bool
	// TooStale reports whether the control plane refused Config.MaxStale when the stream was last opened.
	TooStale bool
	// Leased reports whether the cache may be used without asking the control plane. LeaseRemaining is for how long.
	Leased         bool
	LeaseRemaining time.Duration
	// GraceRemaining is how long cached keys serve if the control plane does not answer: the lease plus MaxStale.
	GraceRemaining time.Duration
	// SessionID and ReplicaID identify the last stream. Position is the last position that the resolver has acted on.
	SessionID, ReplicaID, Position string
	// Entries is the approximate number of cached answers.
	Entries int
}

// Status returns the state of the resolver.
func (r *Resolver) Status() Status {
	r.streamMu.Lock()
	s := r.streamState
	r.streamMu.Unlock()
	remaining, refused, grace := r.leaseRemaining(0), r.credential.isRefused(), r.cfg.MaxStale
	if refused {
		grace = 0
	}
	return Status{
		Connected: s.connected, Unauthenticated: refused, TooStale: s.tooStale,
		Leased: remaining > 0, LeaseRemaining: remaining, GraceRemaining: r.leaseRemaining(grace),
		SessionID: s.session, ReplicaID: s.replica, Position: s.position,
		Entries: r.store.size(),
	}
}

// leaseRemaining returns the time until the lease has ended and grace has passed, at least 0.
func (r *Resolver) leaseRemaining(grace time.Duration) time.Duration {
	return max(time.Duration(r.leaseEnd.Load())+grace-r.clock.Now(), 0)
}

// Format prints the resolver's status instead of its fields, which hold secrets.
func (r *Resolver) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "data plane %+v", r.Status()) }
