package dataplane

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
)

// maxTries is how often a fetch is sent if its answers are older than events that have arrived.
const maxTries = 3

// maxEventLog is the number of events kept for the fetches in flight. A fetch during which more events arrive is sent
// again.
const maxEventLog = 4096

// entry is a cached answer: a key, or a refusal (err). Only its field refreshing ever changes. All times are the
// Clock's.
//
// While cached, an entry is in one of these states. In each of them, an event that touches the entry drops it, and so
// does an eviction:
//
//	fresh    now < freshUntil, with a lease: it is served without asking
//	stale    no longer fresh, or no lease: the control plane is asked, and a key serves only if there is no answer, and
//	         less than Config.MaxStale has passed since the end of the lease and since agedAt
//	invalid  now >= validUntil: it is not served
type entry struct {
	id  digest
	key *Key
	err error

	// The scope of the answer. The project of a refused credential is not known.
	project                      project
	provider, user, token, keyID string

	// freshUntil is the earlier of agedAt and validUntil. agedAt is when MaxAge or NegativeTTL has passed. validUntil
	// is when the caller's credential has to be checked again, when the key expires, or when the credential that the
	// control plane made for the provider expires, whichever is first.
	freshUntil, agedAt, validUntil time.Duration
	// From refreshFrom on, the next use of the entry also fetches it again, in the background.
	refreshFrom time.Duration
	refreshing  atomic.Bool
	// replaced is the rotation that replaced the key's version, which serves until the new one has been fetched; usually nil.
	replaced *replacement
}

// store holds the cached answers, the indexes by which events find them, and the fetches in flight.
//
// mu orders events and the ends of fetches. If an answer is cached before an event arrives, the event drops it. If the
// event arrives first, the fence compares the answer with the event before the answer is cached. Hits read the cache
// without mu.
type store struct {
	fetchTimeout time.Duration
	discarded    prometheus.Counter
	cache        *otter.Cache[digest, *entry] // safe for concurrent use; written under mu

	mu        sync.Mutex
	byProject map[project]map[*entry]struct{}
	byToken   map[string]map[*entry]struct{} // by the id of the caller's API key
	// unscoped has the refusals to authenticated callers, which do not name the project.
	unscoped map[*entry]struct{}
	pending  map[digest]*pendingFetch
	// generation counts how often everything was dropped.
	generation uint64
	// events has the events since the oldest fetch in flight began. eventsBefore is the number of events before them,
	// which are no longer kept.
	events       []event
	eventsBefore uint64

	// evicted has the entries that the cache dropped for lack of room and that are still indexed. evictedMu guards
	// nothing else, because the cache calls back while it holds its own locks.
	evictedMu sync.Mutex
	evicted   []*entry

	// watches are the uses in progress. A use may go on for a while after its key has ended. Guarded by mu.
	watches map[*watch]struct{}
	// inFlight has the counts to acknowledge, by key id. Guarded by mu.
	inFlight map[string]inFlight

	// replacements maps a key's id to its rotation while the old version still serves. Guarded by mu.
	replacements map[string]*replacement
	replaced     chan *replacement // rotations whose new versions are to be fetched
	settled      chan struct{}     // signals that a rotation may be acknowledged
}

// maxInFlight bounds the counts that wait to be acknowledged to what one acknowledgement may carry.
const maxInFlight = 500

// inFlight is how many uses of a key were in progress when the transaction tx revoked, disabled or rotated the key.
type inFlight struct {
	tx   int64
	uses int
}

// watch is a use of a key in progress, such as an open stream. Ended is called with mu held.
type watch struct {
	key   *Key
	ended func(certain bool)
}

// watchKey calls ended when an event ends the key for its caller, or with certain false when such an event may have been missed.
func (s *store) watchKey(key *Key, ended func(certain bool)) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watch{key, ended}
	s.watches[w] = struct{}{}
	if counted, ok := s.inFlight[key.ID]; ok && !key.asOf.Contains(counted.tx) { // the use began right before the key was dropped
		counted.uses++
		s.inFlight[key.ID] = counted
	}
	if key.ended != nil && key.ended.Load() {
		ended(true)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, w)
	}
}

// endWatches ends the uses that an event ends, and counts them if it revokes, disables or rotates their key. The caller holds mu.
func (s *store) endWatches(ev *event) {
	uses := 0
	for w := range s.watches {
		if ev.ends(w.key) {
			uses++
			w.ended(true)
		} else if ev.replaces(w.key) {
			uses++
		}
	}
	switch ev.kind {
	case typeKeyRevoked, typeKeyDisabled, typeKeyRotated, typeKeyRolledBack:
	default:
		return
	}
	if ev.key == "" || ev.tx == unknownTx {
		return
	}
	// If the event comes again, fewer uses may be left: the first count stands.
	if counted, ok := s.inFlight[ev.key]; !ok && len(s.inFlight) < maxInFlight || ok && counted.tx < ev.tx {
		s.inFlight[ev.key] = inFlight{ev.tx, uses}
	}
}

// inFlightAt returns the counts of the revocations, disablings and rotations that a position contains.
func (s *store) inFlightAt(at position.Position) (counts []gen.InFlight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, c := range s.inFlight {
		if at.Contains(c.tx) {
			counts = append(counts, gen.InFlight{KeyID: key, Requests: c.uses})
		}
	}
	return counts
}

// dropInFlight drops counts that have been acknowledged.
func (s *store) dropInFlight(counts []gen.InFlight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range counts {
		delete(s.inFlight, c.KeyID)
	}
}

// signal wakes the receiver of a channel that holds one signal. If one is pending, that is enough.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

func newStore(size int, fetchTimeout time.Duration) (*store, error) {
	s := &store{
		fetchTimeout: fetchTimeout,
		byProject:    map[project]map[*entry]struct{}{},
		byToken:      map[string]map[*entry]struct{}{},
		unscoped:     map[*entry]struct{}{},
		pending:      map[digest]*pendingFetch{},
		watches:      map[*watch]struct{}{},
		inFlight:     map[string]inFlight{},

		replacements: map[string]*replacement{},
		replaced:     make(chan *replacement, maxReplaced),
		settled:      make(chan struct{}, 1),
	}
	cache, err := otter.New(&otter.Options[digest, *entry]{
		MaximumSize: size,
		OnAtomicDeletion: func(e otter.DeletionEvent[digest, *entry]) {
			if e.WasEvicted() {
				s.evictedMu.Lock()
				defer s.evictedMu.Unlock()
				s.evicted = append(s.evicted, e.Value)
			}
		},
	})
	s.cache = cache
	return s, err
}

// size returns the approximate number of entries.
func (s *store) size() int { return s.cache.EstimatedSize() }

// pendingFetch is a fetch in flight, shared by all callers that want its answer.
//
// It begins in fetch. It ends in commitFetch, with an answer that is newer than every event since, or in failFetch. An
// older answer does not end the fetch; the fetch is sent again.
type pendingFetch struct {
	id   digest
	done chan struct{}
	key  *Key  // set before done is closed
	err  error // set before done is closed

	// since is the number of events, and generation is the store's generation, at the time when the fetch was last
	// sent. Guarded by the store's mu.
	since, generation uint64
}

// asker asks the control plane for the answer to a request.
type asker func(ctx context.Context) (*entry, error)

// fetch returns the fetch in flight for a request, or starts one. If an entry that isUsable accepts has been cached since
// the caller looked, fetch returns that entry instead; a nil isUsable accepts none.
func (s *store) fetch(ctx context.Context, id digest, isUsable func(*entry) bool, ask asker) (*pendingFetch, *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pending[id]; ok {
		return p, nil
	}
	if e, ok := s.cache.GetIfPresent(id); ok && isUsable != nil && isUsable(e) {
		return nil, e
	}
	p := &pendingFetch{id: id, done: make(chan struct{})}
	s.setFence(p)
	s.pending[id] = p
	go s.runFetch(context.WithoutCancel(ctx), p, ask)
	return p, nil
}

// runFetch asks for an answer, for all callers that share the fetch, and ends it within FetchTimeout.
func (s *store) runFetch(ctx context.Context, p *pendingFetch, ask asker) {
	ctx, cancel := context.WithTimeout(ctx, s.fetchTimeout)
	defer cancel()
	for try := 1; try <= maxTries; try++ {
		e, err := ask(ctx)
		if err != nil && !errors.Is(err, errLate) {
			s.failFetch(p, err)
			return
		}
		if err == nil {
			e.id = p.id
			if s.commitFetch(p, e, try == maxTries) {
				return
			}
		}
		s.discarded.Inc()
	}
	s.failFetch(p, errOutdated)
}

// setFence remembers which events had arrived when a fetch is sent. The caller holds mu.
func (s *store) setFence(p *pendingFetch) {
	p.since, p.generation = s.eventsBefore+uint64(len(s.events)), s.generation
}

// commitFetch ends a fetch with an answer and caches it. It returns false if the answer is older than an event that
// touches it: then the fetch has to be sent again. On the last try, an outdated refusal is returned, but not cached.
func (s *store) commitFetch(p *pendingFetch, e *entry, last bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	outdated, passed := s.compareWithEvents(p, e)
	if outdated && (e.err == nil || !last) {
		s.setFence(p)
		return false
	}
	// Without a project, touches can't report whether an event concerns this refusal. So if any event arrived during the
	// fetch, the refusal is not cached.
	if !outdated && (!passed || e.project.customer != "") {
		s.insert(e)
	}
	if !outdated && len(s.replacements) > 0 {
		s.switchVersion(e)
	}
	s.endFetch(p, e.key, e.err)
	return true
}

// compareWithEvents compares an answer with the events that have arrived since the fetch was sent. outdated reports
// whether one of these events touches the answer and is not contained in the answer's position. A refusal has no
// position, so it contains no event. passed reports whether any event has arrived.
func (s *store) compareWithEvents(p *pendingFetch, e *entry) (outdated, passed bool) {
	if p.generation != s.generation || p.since < s.eventsBefore {
		return true, true
	}
	var asOf position.Position
	if e.key != nil {
		asOf = e.key.asOf
	}
	since := s.events[p.since-s.eventsBefore:]
	for i := range since {
		if since[i].touches(e) && !asOf.Contains(since[i].tx) {
			return true, true
		}
	}
	return false, len(since) > 0
}

// failFetch ends a fetch without an answer.
func (s *store) failFetch(p *pendingFetch, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endFetch(p, nil, err)
}

// endFetch gives the answer to all callers that wait. The caller holds mu, so the next request finds the cached entry
// or starts a new fetch.
func (s *store) endFetch(p *pendingFetch, key *Key, err error) {
	p.key, p.err = key, err
	delete(s.pending, p.id)
	if len(s.pending) == 0 {
		s.eventsBefore += uint64(len(s.events))
		s.events = nil
	}
	close(p.done)
}

// apply drops the entries that an event touches, or lets them serve until they have been fetched again. It keeps the event for
// the fetches in flight.
func (s *store) apply(ev event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unindexEvicted()
	if len(s.pending) > 0 {
		if len(s.events) == maxEventLog {
			s.events = append([]event(nil), s.events[maxEventLog/2:]...)
			s.eventsBefore += maxEventLog / 2
		}
		s.events = append(s.events, ev)
	}
	if ev.isUrgent() {
		s.endWatches(&ev)
	}
	var kept []*entry
	for _, entries := range s.candidates(&ev) {
		for e := range entries {
			if ev.touches(e) && !ev.isReflectedIn(e) {
				if s.mayKeep(&ev, e) {
					kept = append(kept, e)
					continue
				}
				if e.key != nil && e.key.ended != nil && ev.ends(e.key) {
					e.key.ended.Store(true)
				}
				s.unindex(e)
				s.cache.Invalidate(e.id)
			}
		}
	}
	if len(kept) > 0 {
		s.keep(&ev, kept)
	}
}

// candidates returns sets of entries that together contain every entry the event touches.
func (s *store) candidates(ev *event) []map[*entry]struct{} {
	switch {
	case ev.kind == typeTokenRevoked && ev.token != "":
		return []map[*entry]struct{}{s.byToken[ev.token]}
	case ev.project.customer != "" && ev.project.name != "":
		return []map[*entry]struct{}{s.byProject[ev.project], s.unscoped}
	}
	all := append(make([]map[*entry]struct{}, 0, len(s.byProject)+1), s.unscoped)
	for _, entries := range s.byProject {
		all = append(all, entries)
	}
	return all
}

// dropAll drops every entry, and makes the answers of the fetches in flight outdated. If certain, all uses must end;
// otherwise they may have to end.
func (s *store) dropAll(certain bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unindexEvicted()
	if certain {
		for _, entries := range s.byProject {
			for e := range entries {
				if e.key != nil && e.key.ended != nil {
					e.key.ended.Store(true) // its use may be about to begin
				}
			}
		}
	}
	s.generation++
	clear(s.byProject)
	clear(s.byToken)
	clear(s.unscoped)
	clear(s.replacements)
	clear(s.inFlight) // in a database that was restored, the numbers mean other transactions
	s.cache.InvalidateAll()
	for w := range s.watches {
		w.ended(certain)
	}
}

// insert caches an entry and replaces the previous one of its request. The caller holds mu.
func (s *store) insert(e *entry) {
	s.unindexEvicted()
	if old, ok := s.cache.GetIfPresent(e.id); ok {
		s.unindex(old)
	}
	if e.project.customer != "" {
		addTo(s.byProject, e.project, e)
	} else if e.err != nil && !errors.Is(e.err, ErrCallerUnauthenticated) {
		s.unscoped[e] = struct{}{}
	}
	if e.token != "" {
		addTo(s.byToken, e.token, e)
	}
	s.cache.Set(e.id, e)
}

// unindexEvicted removes what the cache has evicted from the indexes. The caller holds mu.
func (s *store) unindexEvicted() {
	s.evictedMu.Lock()
	evicted := s.evicted
	s.evicted = nil
	s.evictedMu.Unlock()
	for _, e := range evicted {
		s.unindex(e)
	}
}

func (s *store) unindex(e *entry) {
	removeFrom(s.byProject, e.project, e)
	removeFrom(s.byToken, e.token, e)
	delete(s.unscoped, e)
	if e.replaced != nil {
		s.removeReplaced(e)
	}
}

func addTo[K comparable](index map[K]map[*entry]struct{}, k K, e *entry) {
	if index[k] == nil {
		index[k] = map[*entry]struct{}{}
	}
	index[k][e] = struct{}{}
}

func removeFrom[K comparable](index map[K]map[*entry]struct{}, k K, e *entry) {
	delete(index[k], e)
	if len(index[k]) == 0 {
		delete(index, k)
	}
}

// The types of the stream's messages: those about the stream itself, and the events.
const (
	typeHello     = "hello"
	typeHeartbeat = "heartbeat"
	typeKeyTest   = "key_test"
	typeReset     = "reset"

	typeKeyRegistered = "key.registered"
	typeKeyRevoked    = "key.revoked"
	typeKeyUpdated    = "key.updated"
	typeKeyDisabled   = "key.disabled"
	typeKeyEnabled    = "key.enabled"
	typeKeyExpiring   = "key.expiring"
	typeKeyExpired    = "key.expired"
	typeKeyVerified   = "key.verified"
	typeKeyFailing    = "key.failing"
	typeKeyExposed    = "key.exposed"
	// typeKeyRotated and typeKeyRolledBack say that another version of a key serves from now on. typeVersionAdded
	// changes no answer. typeVersionDestroyed concerns only entries that still serve the destroyed version.
	typeKeyRotated       = "key.rotated"
	typeKeyRolledBack    = "key.rotation_rolled_back"
	typeVersionAdded     = "key.version_added"
	typeVersionDestroyed = "key.version_destroyed"

	typePolicySet     = "policy.set"
	typeMemberSet     = "member.set"
	typeMemberRemoved = "member.removed"
	typeTokenCreated  = "token.created"
	typeTokenRevoked  = "token.revoked"
)

// unknownTx stands for the transaction of an event that names none: no position contains it.
const unknownTx = math.MaxInt64

// event is a change that the stream has announced. An empty field was not named, and stands for every value.
type event struct {
	kind                       string
	tx                         int64
	project                    project
	provider, key, user, token string // key and token are ids

	// version is the version that a rotation replaced, or that was destroyed; 0 if the event does not say. retiresIn is
	// how long the control plane keeps a replaced version. keepUntil is when the version must stop serving here, by the
	// Clock; 0 if it must not serve any more.
	version              int
	retiresIn, keepUntil time.Duration
}

// project names a customer's project.
type project struct{ customer, name string }

func newEvent(m *gen.StreamMessage) event {
	ev := event{
		kind: m.Type, tx: unknownTx, project: project{valueOf(m.CustomerID), valueOf(m.ProjectID)},
		provider: valueOf(m.Provider), key: valueOf(m.KeyID), user: valueOf(m.UserID), token: valueOf(m.TokenID),
		version: valueOf(m.Version), retiresIn: milliseconds(valueOf(m.RetiresInMs), maxValid),
	}
	if m.Tx != nil && *m.Tx >= 0 {
		ev.tx = *m.Tx
	}
	return ev
}

// isUrgent reports whether the event may end uses or replace a key's version. A person or a program may wait for the
// receipt of such an event.
func (ev *event) isUrgent() bool {
	switch ev.kind {
	case typeKeyRevoked, typeKeyDisabled, typeKeyExpired, typeMemberRemoved, typeTokenRevoked, typeKeyRotated, typeKeyRolledBack:
		return true
	}
	return false
}

// replaces reports whether another version of a key serves from the event on. Uses of the previous version continue.
func (ev *event) replaces(key *Key) bool {
	return (ev.kind == typeKeyRotated || ev.kind == typeKeyRolledBack) && ev.key == key.ID && !key.asOf.Contains(ev.tx)
}

// ends reports whether a key may no longer be used for its caller, whatever a new fetch would answer.
func (ev *event) ends(key *Key) bool {
	switch ev.kind {
	case typeKeyRevoked:
		return ev.key == key.ID
	case typeKeyDisabled, typeKeyExpired: // unless the key was fetched later, after it was enabled or given more time
		return ev.key == key.ID && !key.asOf.Contains(ev.tx)
	case typeTokenRevoked:
		return ev.token != "" && key.Caller != nil && key.Caller.TokenID == ev.token
	case typeMemberRemoved:
		return key.Caller != nil && ev.user == key.Caller.UserID && ev.project == project{key.CustomerID, key.ProjectID}
	}
	return false
}

// touches reports whether the answer to an entry's request may have changed with the event. In doubt it returns true.
func (ev *event) touches(e *entry) bool {
	switch ev.kind {
	case typeKeyExposed, typeKeyExpiring, typeKeyVerified, typeVersionAdded:
		return false // these events are for people
	case typeVersionDestroyed:
		return ev.destroys(e)
	case typeTokenCreated:
		return errors.Is(e.err, ErrCallerUnauthenticated)
	case typeTokenRevoked:
		if ev.token != "" {
			return e.token == ev.token
		}
	}
	if e.project.customer == "" {
		return ev.mayLiftRefusal(e)
	}
	if !matches(ev.project.customer, e.project.customer) || !matches(ev.project.name, e.project.name) {
		return false
	}
	switch ev.kind {
	case typeKeyRegistered, typeKeyEnabled, typeKeyUpdated, typeKeyRotated, typeKeyRolledBack:
		return ev.mayServe(e)
	case typeKeyRevoked, typeKeyDisabled, typeKeyExpired, typeKeyFailing:
		return ev.key == "" || e.key != nil && e.key.ID == ev.key
	case typeMemberSet, typeMemberRemoved:
		return matches(ev.user, e.user)
	default: // policy.set, and types added in the future
		return true
	}
}

// mayServe reports whether the event's key may serve the entry's request from now on, or did until now.
func (ev *event) mayServe(e *entry) bool {
	return matches(ev.provider, e.provider) && matches(ev.user, e.user) || e.key != nil && e.key.ID == ev.key
}

// mayLiftRefusal reports whether the event may end a refusal that does not name the project.
func (ev *event) mayLiftRefusal(e *entry) bool {
	switch ev.kind {
	case typeKeyRegistered, typeKeyEnabled, typeKeyUpdated, typeKeyRotated, typeKeyRolledBack:
		if e.keyID != "" {
			return matches(ev.key, e.keyID)
		}
		return matches(ev.provider, e.provider)
	case typeKeyRevoked, typeKeyDisabled, typeKeyExpired, typeKeyFailing, typeMemberRemoved:
		return false // these only take access away
	default:
		return true
	}
}

// matches reports whether a field of an event or a request covers a value. An empty field covers every value.
func matches(field, value string) bool { return field == "" || field == value }

// label returns the event's type for the metric. It is one of a fixed set, whatever the stream sends.
func (ev *event) label() string {
	switch ev.kind {
	case typeKeyRegistered, typeKeyRevoked, typeKeyUpdated, typeKeyDisabled, typeKeyEnabled, typeKeyExpiring, typeKeyExpired, typeKeyFailing,
		typeKeyRotated, typeKeyRolledBack, typePolicySet, typeMemberSet, typeMemberRemoved,
		typeTokenCreated, typeTokenRevoked:
		return ev.kind
	default:
		return "other"
	}
}
