package dataplane

import (
	"errors"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

// maxLog is how many events are kept for the fetches that are on their way. A fetch that more have passed is repeated.
const maxLog = 4096

// entry is an answer: a key, or a refusal (err). It never changes.
type entry struct {
	id  digest
	key *Key
	err error

	// What it is about, as far as it is known: a refusal to a credential does not say for which project.
	project                      project
	provider, user, token, keyID string

	// fresh is until when it may be used under a lease; aged is when MaxAge or NegativeTTL has passed; valid is when
	// the caller's credential has to be looked at again.
	fresh, aged, valid time.Duration
}

// store holds what is cached, the index by which events find it, and the fetches that are on their way. One mutex
// orders events and the ends of fetches, so that no answer slips in beside an event that touches it. Hits do not take
// it.
type store struct {
	cache *otter.Cache[digest, *entry]

	mu       sync.Mutex
	projects map[project]map[*entry]struct{}
	tokens   map[string]map[*entry]struct{}
	// adrift are refusals to a caller who is known to the control plane: they do not say for which project they are.
	adrift  map[*entry]struct{}
	flights map[digest]*flight
	// generation counts how often everything was dropped.
	generation uint64
	// log has the events since the first of the fetches began; logStart counts those before it.
	log      []event
	logStart uint64

	// evicted has what the cache let go of for want of room. It has a mutex of its own, which is held for nothing else,
	// because the cache calls with its own locks held.
	evictedMu sync.Mutex
	evicted   []*entry
}

func newStore(size int) (*store, error) {
	s := &store{
		projects: map[project]map[*entry]struct{}{},
		tokens:   map[string]map[*entry]struct{}{},
		adrift:   map[*entry]struct{}{},
		flights:  map[digest]*flight{},
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

// apply drops what an event touches and shows the event to the fetches that are on their way.
func (s *store) apply(ev event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	if len(s.flights) > 0 {
		if len(s.log) == maxLog {
			s.log = append([]event(nil), s.log[maxLog/2:]...)
			s.logStart += maxLog / 2
		}
		s.log = append(s.log, ev)
	}
	for _, among := range s.candidates(&ev) {
		for e := range among {
			if ev.touches(e) {
				s.unindex(e)
				s.cache.Invalidate(e.id)
			}
		}
	}
}

// candidates returns the sets of entries among which are all that the event touches.
func (s *store) candidates(ev *event) []map[*entry]struct{} {
	switch {
	case ev.kind == typeTokenRevoked && ev.tok != "":
		return []map[*entry]struct{}{s.tokens[ev.tok]}
	case ev.project.customer != "" && ev.project.name != "":
		return []map[*entry]struct{}{s.projects[ev.project], s.adrift}
	}
	all := append(make([]map[*entry]struct{}, 0, len(s.projects)+1), s.adrift)
	for _, among := range s.projects {
		all = append(all, among)
	}
	return all
}

// dropAll forgets everything, and what is on its way as well.
func (s *store) dropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	s.generation++
	clear(s.projects)
	clear(s.tokens)
	clear(s.adrift)
	s.cache.InvalidateAll()
}

// insert caches an answer in place of what there was. The caller holds the mutex.
func (s *store) insert(e *entry) {
	s.sweep()
	if old, ok := s.cache.GetIfPresent(e.id); ok {
		s.unindex(old)
	}
	if e.project.customer != "" {
		add(s.projects, e.project, e)
	} else if e.err != nil && !errors.Is(e.err, ErrCallerUnauthenticated) {
		s.adrift[e] = struct{}{}
	}
	if e.token != "" {
		add(s.tokens, e.token, e)
	}
	s.cache.Set(e.id, e)
}

// sweep takes out of the index what the cache has evicted. The caller holds the mutex.
func (s *store) sweep() {
	s.evictedMu.Lock()
	evicted := s.evicted
	s.evicted = nil
	s.evictedMu.Unlock()
	for _, e := range evicted {
		s.unindex(e)
	}
}

func (s *store) unindex(e *entry) {
	remove(s.projects, e.project, e)
	remove(s.tokens, e.token, e)
	delete(s.adrift, e)
}

func add[K comparable](index map[K]map[*entry]struct{}, k K, e *entry) {
	if index[k] == nil {
		index[k] = map[*entry]struct{}{}
	}
	index[k][e] = struct{}{}
}

func remove[K comparable](index map[K]map[*entry]struct{}, k K, e *entry) {
	delete(index[k], e)
	if len(index[k]) == 0 {
		delete(index, k)
	}
}

// size returns the number of entries, about.
func (s *store) size() int { return s.cache.EstimatedSize() }

// flight is a fetch on its way, shared by all who want its answer. key and err are set before done is closed.
type flight struct {
	id   digest
	done chan struct{}
	key  *Key
	err  error

	// since and generation say what had passed when the present try began.
	since, generation uint64
}

// join returns the fetch that is on its way for a request, or a new one, which the caller has to start. Where an entry
// that usable approves of has come in the meantime, it returns that.
func (s *store) join(id digest, usable func(*entry) bool) (f *flight, isNew bool, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.flights[id]; ok {
		return f, false, nil
	}
	if e, ok := s.cache.GetIfPresent(id); ok && usable(e) {
		return nil, false, e
	}
	f = &flight{id: id, done: make(chan struct{})}
	s.flights[id] = f
	return f, true, nil
}

// begin notes what has passed before a try of the fetch.
func (s *store) begin(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.since, f.generation = s.logStart+uint64(len(s.log)), s.generation
}

// end finishes a fetch without anything to remember.
func (s *store) end(f *flight, key *Key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish(f, key, err)
}

// finish hands the answer out. The caller holds the mutex, so whoever asks next finds the entry or begins anew.
func (s *store) finish(f *flight, key *Key, err error) {
	f.key, f.err = key, err
	delete(s.flights, f.id)
	if len(s.flights) == 0 {
		s.logStart += uint64(len(s.log))
		s.log = nil
	}
	close(f.done)
}

// settle ends a fetch with an answer and remembers it, unless something passed that the answer may not know of. Then it
// returns false, and the fetch has to be repeated; but a refusal on the last try is handed out, and not remembered.
func (s *store) settle(f *flight, e *entry, asOf Position, last bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	overtaken, passed := s.overtaken(f, e, asOf)
	switch {
	case overtaken && (e.err == nil || !last):
		return false
	case !overtaken && (!passed || e.project.customer != ""):
		s.insert(e)
	}
	s.finish(f, e.key, e.err)
	return true
}

// overtaken tells whether an event passed that touches the answer and is not in it, and whether any passed at all.
// Refusals come without a position, which is as good as one that holds nothing.
func (s *store) overtaken(f *flight, e *entry, asOf Position) (overtaken, passed bool) {
	if f.generation != s.generation || f.since < s.logStart {
		return true, true
	}
	since := s.log[f.since-s.logStart:]
	for i := range since {
		if since[i].touches(e) && !asOf.Contains(since[i].tx) {
			return true, true
		}
	}
	return false, len(since) > 0
}

// errOvertaken is why a fetch that was repeated too often has no answer.
var errOvertaken = errors.New("each answer was older than what is known to have changed since")
