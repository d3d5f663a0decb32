package rewrap

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// State is the state of an envelope.
type State string

// The states of an envelope.
const (
	// StateCurrent is the state of an envelope under the primary KEK.
	StateCurrent State = "current"
	// StateOldKEK is the state of an envelope under another KEK that still unwraps.
	StateOldKEK State = "old_kek"
	// StateUnreadable is the state of an envelope whose KEK is unknown or retired, or that can't be re-wrapped.
	StateUnreadable State = "unreadable"
)

// KEKUnknown is the state of a KEK that rows name but the sealer does not have.
const KEKUnknown sealer.KEKState = "unknown"

// KEKKeys is a KEK and the number of keys under it, by state.
type KEKKeys struct {
	sealer.KEK
	Current    int64 `json:"current"`
	OldKEK     int64 `json:"old_kek"`
	Unreadable int64 `json:"unreadable"`
}

// All returns the number of keys in any state.
func (k KEKKeys) All() int64 { return k.Current + k.OldKEK + k.Unreadable }

func (k *KEKKeys) add(state State, keys int64) {
	switch state {
	case StateCurrent:
		k.Current += keys
	case StateOldKEK:
		k.OldKEK += keys
	case StateUnreadable:
		k.Unreadable += keys
	}
}

// Inspector reports how keys are sealed. It writes nothing.
type Inspector struct {
	store  Store
	sealer sealer.Sealer
	keks   []sealer.KEK               // in the sealer's order
	states map[string]sealer.KEKState // :: KEK id → its state
}

// NewInspector asks the sealer for its KEKs. Its error is sealer.ErrUnavailable.
func NewInspector(ctx context.Context, store Store, s sealer.Sealer) (*Inspector, error) {
	keks, err := s.KEKs(ctx)
	if err != nil {
		return nil, err
	}
	i := &Inspector{store: store, sealer: s, states: map[string]sealer.KEKState{}}
	for _, kek := range keks {
		// If two sealers have the same KEK, the first one counts.
		if _, known := i.states[kek.ID]; !known {
			i.keks, i.states[kek.ID] = append(i.keks, kek), kek.State
		}
	}
	return i, nil
}

// Primary returns the KEK that new keys are sealed under.
func (i *Inspector) Primary() string {
	for _, kek := range i.keks {
		if kek.State == sealer.KEKPrimary {
			return kek.ID
		}
	}
	return ""
}

// stateUnder returns the state of an envelope under a KEK, without trying the envelope.
func (i *Inspector) stateUnder(kekID string) State {
	switch i.states[kekID] {
	case sealer.KEKPrimary:
		return StateCurrent
	case sealer.KEKEnabled:
		return StateOldKEK
	default:
		return StateUnreadable
	}
}

// Count counts all keys by the KEKs that their rows name, without trying an envelope.
func (i *Inspector) Count(ctx context.Context) ([]KEKKeys, error) {
	rows, err := i.store.KeysByKEK(ctx)
	if err != nil {
		return nil, err
	}
	counts := i.zeroCounts()
	for kek, keys := range rows {
		countUnder(counts, kek).add(i.stateUnder(kek), keys)
	}
	return i.inOrder(counts), nil
}

// Sample tries at most perKEK envelopes under each KEK, or all if perKEK is 0, and counts them by state. It tries an
// envelope by re-wrapping it without writing the result. That needs no right to open, unless secrets have to move to
// another sealer.
func (i *Inspector) Sample(ctx context.Context, perKEK int64) ([]KEKKeys, []Unreadable, error) {
	counts, unreadable := i.zeroCounts(), map[string]Unreadable{}
	taken := map[string]int64{} // :: KEK id → envelopes tried under it
	for after := ""; ; {
		page, err := i.store.SealedKeys(ctx, after, windowSize)
		if err != nil {
			return nil, nil, err
		}
		for batch := range slices.Chunk(choose(page, taken, perKEK), maxBatch) {
			found, err := i.Check(ctx, batch)
			if err != nil {
				return nil, nil, err
			}
			for n, status := range found {
				countUnder(counts, status.KEKID).add(status.State, 1)
				if status.Err != nil {
					u := unreadableFor(batch[n], status.Err)
					u.KEKID = status.KEKID
					unreadable[nameOf(batch[n])] = u
				}
			}
		}
		if len(page) < windowSize {
			return i.inOrder(counts), sortedByKey(unreadable), nil
		}
		after = page[len(page)-1].ID
	}
}

// choose returns the keys of a page that Sample still needs, and counts them in taken.
func choose(page []models.Key, taken map[string]int64, perKEK int64) []models.Key {
	if perKEK == 0 {
		return page
	}
	var chosen []models.Key
	for _, k := range page {
		if kek := kekOf(k); taken[kek] < perKEK {
			taken[kek]++
			chosen = append(chosen, k)
		}
	}
	return chosen
}

// EnvelopeStatus is the state of one key's envelope.
type EnvelopeStatus struct {
	State State
	// KEKID is the KEK that the envelope names, or that the row names if the envelope is malformed.
	KEKID string
	// Err is why the envelope is unreadable.
	Err error
}

// Reason returns a text for people that says why an envelope is unreadable. It is empty for a readable one.
func (s EnvelopeStatus) Reason() string { return reasonFor(s.Err) }

// Classify returns the status of a key by its row and the head of its envelope, without trying the envelope.
func (i *Inspector) Classify(k models.Key) EnvelopeStatus {
	named, err := sealer.KEKIDOf(k.Envelope)
	if err != nil {
		return EnvelopeStatus{StateUnreadable, k.KEKID, err}
	}
	status := EnvelopeStatus{State: i.stateUnder(named), KEKID: named}
	if status.State == StateUnreadable {
		status.Err = sealer.ErrUnknownKEK
	}
	return status
}

// Check returns the statuses of keys by trying their envelopes, in their order.
func (i *Inspector) Check(ctx context.Context, keys []models.Key) ([]EnvelopeStatus, error) {
	items := make([]sealer.Item, len(keys))
	for n, k := range keys {
		items[n] = sealer.Item{Binding: bindingOf(k), Envelope: k.Envelope}
	}
	results, err := sealer.RewrapAll(ctx, i.sealer, items)
	if err != nil {
		return nil, err
	}
	found := make([]EnvelopeStatus, len(keys))
	for n, result := range results {
		found[n] = EnvelopeStatus{State: i.stateUnder(kekOf(keys[n])), KEKID: kekOf(keys[n])}
		switch {
		case isUnreadable(result.Err):
			found[n].State, found[n].Err = StateUnreadable, result.Err
		case result.Err != nil:
			return nil, result.Err
		case found[n].State == StateUnreadable: // its KEK was added after the sealer's list was made
			found[n].State = StateOldKEK
		}
	}
	return found, nil
}

// kekOf returns the KEK that a key's envelope names, or that its row names if the envelope is malformed.
func kekOf(k models.Key) string {
	if named, err := sealer.KEKIDOf(k.Envelope); err == nil {
		return named
	}
	return k.KEKID
}

// zeroCounts returns a count of zero for each of the sealer's KEKs.
func (i *Inspector) zeroCounts() map[string]*KEKKeys {
	counts := map[string]*KEKKeys{}
	for _, kek := range i.keks {
		counts[kek.ID] = &KEKKeys{KEK: kek}
	}
	return counts
}

// countUnder returns the count of a KEK, which it adds as unknown if the sealer does not have it.
func countUnder(counts map[string]*KEKKeys, kekID string) *KEKKeys {
	if counts[kekID] == nil {
		counts[kekID] = &KEKKeys{KEK: sealer.KEK{ID: kekID, State: KEKUnknown}}
	}
	return counts[kekID]
}

// inOrder returns the sealer's KEKs first, in its order, and the unknown ones after them.
func (i *Inspector) inOrder(counts map[string]*KEKKeys) []KEKKeys {
	var all []KEKKeys
	for _, kek := range i.keks {
		all = append(all, *counts[kek.ID])
	}
	for _, id := range slices.Sorted(maps.Keys(counts)) {
		if _, known := i.states[id]; !known {
			all = append(all, *counts[id])
		}
	}
	return all
}

// Unreadable is a key with an envelope that can't be read.
type Unreadable struct {
	KeyID      string `json:"id"`
	CustomerID string `json:"customer_id"`
	ProjectID  string `json:"project_id"`
	// KEKID is the key-encryption key of the envelope.
	KEKID string `json:"kek_id"`
	// Reason is a text for people that says why the envelope can't be read.
	Reason string `json:"reason"`
}

// reasons lists the errors of unreadable envelopes. Only an operator can repair such envelopes.
var reasons = []struct {
	err  error
	text string
}{
	{sealer.ErrUnknownKEK, "its key-encryption key is unknown or retired"},
	{sealer.ErrBinding, "it was changed, or belongs to another row"},
	{sealer.ErrMalformed, "it is not an envelope"},
	{sealer.ErrInvalidBinding, "its row has no valid ids"},
	{sealer.ErrInvalidSecret, "its content is not a valid secret"},
}

func isUnreadable(err error) bool { return reasonFor(err) != "" }

func reasonFor(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.text
		}
	}
	return ""
}

func unreadableFor(k models.Key, err error) Unreadable {
	return Unreadable{KeyID: k.ID, CustomerID: k.CustomerID, ProjectID: k.ProjectID, KEKID: k.KEKID, Reason: reasonFor(err)}
}

func sortedByKey(unreadable map[string]Unreadable) []Unreadable {
	return slices.SortedFunc(maps.Values(unreadable), func(a, b Unreadable) int { return cmp.Compare(a.KeyID, b.KeyID) })
}
