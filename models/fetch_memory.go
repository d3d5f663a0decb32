package models

import (
	"slices"
	"sync"
	"time"
)

// What a store remembers of its fetches: for how long, so that even a change made by hand, which nothing announces, counts
// soon; and how much at the most, in units of an answer and of rememberUnit bytes of envelopes: about 40 MiB.
const (
	rememberFor   = time.Second
	maxRemembered = 10_000
	rememberUnit  = 4 << 10
)

// fetchMemory holds what fetches on Postgres found, as of a position. Many data planes want the same keys at once, above all
// after a change. Nothing in it is good by itself: the statement that records a fetch also looks at what has changed since
// the position, and with the fetch's customer among it neither records the fetch nor lets it be answered. So an answer is
// as fresh as one that was read, and a group of them costs one look.
type fetchMemory struct {
	mu   sync.RWMutex
	term *term // nil while no position is known
	age  func(began time.Time) time.Duration
}

func newFetchMemory() *fetchMemory { return &fetchMemory{age: time.Since} }

// term is what has been remembered since a time.
type term struct {
	began      time.Time
	at         Position
	customers  map[string]*recollection
	dataPlanes map[string]DataPlane
	size       int
}

// recollection is what is remembered of one customer, until something of theirs changes: then there is another.
type recollection struct {
	customerID string
	began      Position // the term's, then: nothing older is kept in it
	answers    map[question]answer
	readers    int
}

type question struct {
	caller   Caller
	provider string
}

type answer struct {
	found       Fetched
	sessionEnds int64
}

// now returns the term, nil where there is none. The lock must be held.
func (m *fetchMemory) now() *term {
	if m.term == nil || m.age(m.term.began) > rememberFor || m.term.size >= maxRemembered {
		return nil
	}
	return m.term
}

// recall returns what was found, if that is known. On SQLite, where a read costs little, there is no memory.
func (m *fetchMemory) recall(dataPlaneID string, q question, now int64) (Fetched, bool) {
	if m == nil {
		return Fetched{}, false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	t := m.now()
	if t == nil {
		return Fetched{}, false
	}
	dataPlane, known := t.dataPlanes[dataPlaneID]
	about := t.customers[q.caller.CustomerID]
	if !known || about == nil || !dataPlane.Serves(q.caller.CustomerID) {
		return Fetched{}, false
	}
	a, known := about.answers[q]
	if !known || (a.sessionEnds != 0 && a.sessionEnds <= now) {
		return Fetched{}, false
	}
	a.found.rests = about
	return a.found, true
}

// about returns what is remembered of a customer, which a reader must ask for before it reads: a change that passes
// meanwhile then ends it. Nil says to remember nothing.
func (m *fetchMemory) about(customerID string) *recollection {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.now()
	if t == nil {
		return nil
	}
	if t.customers[customerID] == nil {
		t.customers[customerID] = &recollection{customerID: customerID, began: t.at, answers: map[question]answer{}}
	}
	t.customers[customerID].readers++
	return t.customers[customerID]
}

// leave ends what about began. What nobody reads for and holds nothing goes: strangers must not fill the memory.
func (m *fetchMemory) leave(about *recollection) {
	if about == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	about.readers--
	if about.readers == 0 && len(about.answers) == 0 && m.term.holds(about) {
		delete(m.term.customers, about.customerID)
	}
}

// keep remembers an answer that was read at a position. That there is no key is not worth it. Where the policy has another
// key serve in the place of a bad one, how keys fare is part of it, and that changes too often to be announced.
func (m *fetchMemory) keep(about *recollection, at Position, d DataPlane, q question, a answer) {
	if about == nil || a.found.Policy.OnBadKey == OnBadKeyNextKey || (a.found.Own.ID == "" && a.found.Project.ID == "") {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.now()
	if !t.holds(about) || !at.contains(about.began) {
		return
	}
	if _, had := about.answers[q]; !had {
		t.size += 1 + (len(a.found.Own.Envelope)+len(a.found.Project.Envelope))/rememberUnit
	}
	if _, had := t.dataPlanes[d.ID]; !had {
		t.size++
	}
	t.dataPlanes[d.ID] = d
	about.answers[q] = a
}

// holds tells whether nothing has changed, as far as is known, since it was remembered.
func (t *term) holds(about *recollection) bool {
	return t != nil && t.customers[about.customerID] == about
}

// admit returns those of the records that rest on nothing that is known to have changed, and the position since which more
// may have; it refuses the others. The position contains everything where there is no term, and then nothing rests on one.
func (m *fetchMemory) admit(group []*record) ([]*record, Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = m.now()
	group = slices.DeleteFunc(group, func(r *record) bool {
		outdated := r.rests != nil && !m.term.holds(r.rests)
		if outdated {
			r.refuse()
		}
		return outdated
	})
	if m.term == nil {
		return group, everything
	}
	return group, m.term.at
}

// everything is the position that lacks nothing.
var everything = Position{Xmin: 1<<63 - 1, Xmax: 1<<63 - 1}

// learn takes in what a statement has seen.
func (m *fetchMemory) learn(s sight) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.term == nil || s.unclear {
		m.term = &term{began: time.Now(), customers: map[string]*recollection{}, dataPlanes: map[string]DataPlane{}}
		time.AfterFunc(rememberFor+time.Millisecond, m.expire)
	}
	for _, customerID := range s.changed {
		delete(m.term.customers, customerID)
	}
	m.term.at = s.at
}

// expire lets go of a term that is over.
func (m *fetchMemory) expire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = m.now()
}

// forget ends the term: whoever could not reach the database does not know what it holds.
func (m *fetchMemory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = nil
}

// sight is what the statement that records a group saw: its position, whose customers' changes the memory lacked, and which
// data planes' credentials are good. Where it is unclear, anything may have changed: there was too much, or the database
// was put back to an earlier state.
type sight struct {
	at      Position
	asOf    string
	changed []string
	serving []string
	unclear bool
}

// covers tells whether the statement recorded a fetch that rests on memory.
func (s sight) covers(r *record) bool {
	return !s.unclear && !slices.Contains(s.changed, r.CustomerID) && slices.Contains(s.serving, r.DataPlaneID)
}
