package dataplane

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/agentrouter/aikeys/internal/position"
)

// maxReplaced bounds the keys whose new versions are yet to be fetched. Beyond it, old versions are dropped at once.
const maxReplaced = 500

// replacement is a rotation whose new version has not been fetched yet. Until then, cached entries of the old version keep
// serving, and the rotation is not acknowledged.
type replacement struct {
	keyID string
	tx    int64
	// until is when the old version stops serving, by the Clock: at the end of the overlap or, if that is earlier, at
	// the end of the lease and grace that the data plane had when the event arrived. So the event never makes a version
	// serve longer.
	until time.Duration
	// entries maps each entry that serves the old version to the entry it was copied from. Guarded by the store's mu.
	entries map[*entry]*entry
}

// servingUntil returns a copy of an entry that serves until end at the latest. The next use of the copy fetches it
// again.
func (e *entry) servingUntil(end time.Duration) *entry {
	next := &entry{
		id: e.id, key: e.key, project: e.project, provider: e.provider, user: e.user, token: e.token, keyID: e.keyID,
		agedAt: e.agedAt, validUntil: min(e.validUntil, end), refreshFrom: never,
	}
	next.freshUntil = min(next.agedAt, next.validUntil)
	return next
}

// withKey returns a copy of an entry with the key's version from another entry of the same key.
func (e *entry) withKey(other *entry) *entry {
	next, key := e.servingUntil(other.validUntil), *other.key
	// The policy belongs to the caller: the other entry may come from a fetch by id, which has no policy.
	key.Caller, key.Reason, key.ended = e.key.Caller, e.key.Reason, new(atomic.Bool)
	key.AllOperations, key.NextIfLimited = e.key.AllOperations, e.key.NextIfLimited
	next.key = &key
	return next
}

// keep lets the entries that a rotation touches serve until the new version has been fetched. Entries of other keys, which
// may no longer be the first choice, are fetched again by their next use. The caller holds mu.
func (s *store) keep(ev *event, touched []*entry) {
	r := &replacement{keyID: ev.key, tx: ev.tx, until: ev.keepUntil, entries: map[*entry]*entry{}}
	for _, e := range touched {
		kept := e.servingUntil(r.until)
		if e.key.ID == r.keyID {
			kept.replaced = r
			r.entries[kept] = e
		}
		s.insert(kept)
	}
	if len(r.entries) > 0 {
		s.replacements[r.keyID] = r
		s.replaced <- r // the channel has room for maxReplaced
	}
}

// isReflectedIn reports whether an entry already reflects a rotation: its answer is newer, or the event has come before.
func (ev *event) isReflectedIn(e *entry) bool {
	if ev.kind != typeKeyRotated && ev.kind != typeKeyRolledBack || e.key == nil {
		return false
	}
	return e.key.asOf.Contains(ev.tx) || e.replaced != nil && e.replaced.tx == ev.tx
}

// destroys reports whether an entry serves the version that the event names as destroyed. Earlier releases of the
// control plane do not name the version; then it is the version that a rotation has replaced.
func (ev *event) destroys(e *entry) bool {
	return e.key != nil && e.key.ID == ev.key && (e.key.Version == ev.version || ev.version == 0 && e.replaced != nil)
}

// mayKeep reports whether an entry that an event touches may serve a while longer. An entry whose version an earlier
// rotation replaced may not, because that version no longer exists. The caller holds mu.
func (s *store) mayKeep(ev *event, e *entry) bool {
	return ev.keepUntil > 0 && e.key != nil && e.replaced == nil &&
		s.replacements[ev.key] == nil && len(s.replacements) < maxReplaced && len(s.replaced) < cap(s.replaced)
}

// switchVersion puts an answer in the place of the old version that it replaces. The caller holds mu.
func (s *store) switchVersion(answer *entry) {
	id := answer.keyID
	if answer.key != nil {
		id = answer.key.ID
	}
	r := s.replacements[id]
	switch {
	case r == nil:
	case answer.key == nil: // the key serves nobody any more
		s.dropEntries(r)
	case answer.key.asOf.Contains(r.tx):
		for kept, found := range r.entries {
			s.unindex(kept)
			s.insert(found.withKey(answer))
		}
	}
}

// dropReplaced drops the entries that still serve the old version.
func (s *store) dropReplaced(r *replacement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropEntries(r)
}

// dropEntries drops the entries that still serve the old version. The caller holds mu.
func (s *store) dropEntries(r *replacement) {
	for e := range r.entries {
		s.unindex(e)
		s.cache.Invalidate(e.id)
	}
}

// removeReplaced removes an entry from its replacement. When the last entry has been removed, the replacement ends. The
// rotation may then be acknowledged, with the number of uses of the old version that are still in progress. The caller
// holds mu.
func (s *store) removeReplaced(e *entry) {
	r := e.replaced
	delete(r.entries, e)
	if len(r.entries) > 0 || s.replacements[r.keyID] != r {
		return
	}
	delete(s.replacements, r.keyID)
	if counted, ok := s.inFlight[r.keyID]; ok && counted.tx == r.tx {
		counted.uses = 0
		for w := range s.watches {
			if w.key.ID == r.keyID && !w.key.asOf.Contains(r.tx) {
				counted.uses++
			}
		}
		s.inFlight[r.keyID] = counted
	}
	signal(s.settled)
}

// isReplaced reports whether the old version still serves somebody.
func (s *store) isReplaced(r *replacement) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(r.entries) > 0 && s.replacements[r.keyID] == r
}

// withoutReplaced returns a position without the rotations whose old versions still serve.
func (s *store) withoutReplaced(at position.Position, now time.Duration) position.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replacements {
		if now < r.until {
			at = at.Without(r.tx)
		}
	}
	return at
}

// applyEvent has the store act on an event.
func (r *Resolver) applyEvent(ev event) {
	if ev.retiresIn > 0 && ev.key != "" && ev.tx != unknownTx {
		now := r.clock.Now()
		if until := min(now+ev.retiresIn, time.Duration(r.leaseEnd.Load())+r.cfg.MaxStale); until > now {
			ev.keepUntil = until
		}
	}
	r.store.apply(ev)
}

// positionActedOn returns a heartbeat's position without the rotations that may not be acknowledged yet.
func (r *Resolver) positionActedOn(text string) string {
	at, err := position.Parse(text)
	if err != nil {
		return text
	}
	return r.store.withoutReplaced(at, r.clock.Now()).String()
}

// fetchReplacements fetches the new versions of keys that were rotated, until ctx ends.
func (r *Resolver) fetchReplacements(ctx context.Context) {
	var fetching sync.WaitGroup
	defer fetching.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case old := <-r.store.replaced:
			fetching.Go(func() { r.fetchReplacement(ctx, old) })
		}
	}
}

// fetchReplacement fetches the new version of a key, which store.switchVersion then puts in place of the old one.
func (r *Resolver) fetchReplacement(ctx context.Context, old *replacement) {
	defer r.store.dropReplaced(old)
	retry := &backoff.ExponentialBackOff{InitialInterval: reconnectMin, Multiplier: 2, MaxInterval: downFor, RandomizationFactor: 1. / 3}
	request := ByID(old.keyID)
	for wait := randomInSecondHalf(time.Duration(r.acknowledgeWithin.Load())) / 2; ; wait = retry.NextBackOff() {
		left := old.until - r.clock.Now()
		if left <= 0 || !r.store.isReplaced(old) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(wait, left)):
		}
		p, _ := r.store.fetch(ctx, request.digest(), nil, r.asker(request))
		select {
		case <-ctx.Done():
			return
		case <-p.done:
		}
	}
}
