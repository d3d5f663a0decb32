package rewrap

import (
	"context"
	"maps"
	"slices"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// State is how a key is sealed.
type State string

// The states of a key's seal.
const (
	// StateCurrent is under the primary KEK.
	StateCurrent State = "current"
	// StateOldKEK is under another one, which still unwraps.
	StateOldKEK State = "old_kek"
	// StateUnreadable can't be read: its KEK is unknown or retired, or the envelope was tried and is damaged.
	StateUnreadable State = "unreadable"
)

// KEKUnknown is the state of a KEK that rows name and the sealer has not.
const KEKUnknown sealer.KEKState = "unknown"

// KEKKeys is a KEK, and how many keys it seals, by their state.
type KEKKeys struct {
	sealer.KEK
	Current, OldKEK, Unreadable int64
}

// All counts them whatever their state.
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

// Inspector tells how keys are sealed. It writes nothing.
type Inspector struct {
	store  Store
	sealer sealer.Sealer
	keks   []sealer.KEK
	states map[string]sealer.KEKState
}

// NewInspector asks the sealer for its KEKs: sealer.ErrUnavailable.
func NewInspector(ctx context.Context, store Store, s sealer.Sealer) (*Inspector, error) {
	keks, err := sealer.ListKEKs(ctx, s)
	if err != nil {
		return nil, err
	}
	i := &Inspector{store: store, sealer: s, states: map[string]sealer.KEKState{}}
	for _, kek := range keks {
		// The first to tell of a KEK is the one that seals.
		if _, known := i.states[kek.ID]; !known {
			i.keks, i.states[kek.ID] = append(i.keks, kek), kek.State
		}
	}
	return i, nil
}

// Primary is the KEK that new keys are sealed under.
func (i *Inspector) Primary() string {
	for _, kek := range i.keks {
		if kek.State == sealer.KEKPrimary {
			return kek.ID
		}
	}
	return ""
}

// stateUnder is what the KEK alone says of an envelope under it.
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

// Count counts all keys by what their rows say, without trying an envelope.
func (i *Inspector) Count(ctx context.Context) ([]KEKKeys, error) {
	rows, err := i.store.KeysByKEK(ctx)
	if err != nil {
		return nil, err
	}
	counts := i.none()
	for kek, keys := range rows {
		i.count(counts, kek).add(i.stateUnder(kek), keys)
	}
	return i.inOrder(counts), nil
}

// Try re-wraps every envelope, writes nothing, and counts what it found: that takes no right to open, unless the
// secrets have to move to another sealer. With a sample it tries no more than that many under each KEK, and counts
// those alone.
func (i *Inspector) Try(ctx context.Context, sample int64) ([]KEKKeys, []Unreadable, error) {
	counts, unreadable := i.none(), map[string]Unreadable{}
	taken := map[string]int64{}
	for after := ""; ; {
		page, err := i.store.SealedKeys(ctx, after, windowSize)
		if err != nil {
			return nil, nil, err
		}
		for batch := range slices.Chunk(i.choose(page, taken, sample), maxBatch) {
			found, err := i.TryThese(ctx, batch)
			if err != nil {
				return nil, nil, err
			}
			for n, seal := range found {
				i.count(counts, seal.KEKID).add(seal.State, 1)
				if seal.Err != nil {
					u := unreadableFor(batch[n], seal.Err)
					u.KEKID = seal.KEKID
					unreadable[u.KeyID] = u
				}
			}
		}
		if len(page) < windowSize {
			return i.inOrder(counts), sorted(unreadable), nil
		}
		after = page[len(page)-1].ID
	}
}

// choose takes from each KEK what is still wanted of it; sample zero is all.
func (i *Inspector) choose(page []models.Key, taken map[string]int64, sample int64) []models.Key {
	if sample == 0 {
		return page
	}
	var chosen []models.Key
	for _, k := range page {
		if kek := kekOf(k); taken[kek] < sample {
			taken[kek]++
			chosen = append(chosen, k)
		}
	}
	return chosen
}

// Seal is how one key is sealed.
type Seal struct {
	State State
	// KEKID is the KEK that the envelope names, or its row where the envelope is none.
	KEKID string
	// Err says why an envelope that was tried is unreadable.
	Err error
}

// Reason says, for people, why an envelope that was tried is unreadable; empty where it is not.
func (s Seal) Reason() string { return reasonFor(s.Err) }

// Judge tells of a key by its row and the head of its envelope, which is not tried.
func (i *Inspector) Judge(k models.Key) Seal {
	if _, err := sealer.KEKIDOf(k.Envelope); err != nil {
		return Seal{StateUnreadable, k.KEKID, err}
	}
	seal := Seal{State: i.stateUnder(kekOf(k)), KEKID: kekOf(k)}
	if seal.State == StateUnreadable {
		seal.Err = sealer.ErrUnknownKEK
	}
	return seal
}

// TryThese tells of keys by trying their envelopes.
func (i *Inspector) TryThese(ctx context.Context, keys []models.Key) ([]Seal, error) {
	items := make([]sealer.Item, len(keys))
	for n, k := range keys {
		items[n] = sealer.Item{Binding: bindingOf(k), Envelope: k.Envelope}
	}
	results, err := sealer.RewrapAll(ctx, i.sealer, items)
	if err != nil {
		return nil, err
	}
	found := make([]Seal, len(keys))
	for n, result := range results {
		found[n] = Seal{State: i.stateUnder(kekOf(keys[n])), KEKID: kekOf(keys[n])}
		switch {
		case isUnreadable(result.Err):
			found[n].State, found[n].Err = StateUnreadable, result.Err
		case result.Err != nil:
			return nil, result.Err
		case found[n].State == StateUnreadable: // its KEK has come since the sealer was asked
			found[n].State = StateOldKEK
		}
	}
	return found, nil
}

// kekOf is the KEK that an envelope names, or its row where the envelope is none.
func kekOf(k models.Key) string {
	if named, err := sealer.KEKIDOf(k.Envelope); err == nil {
		return named
	}
	return k.KEKID
}

func (i *Inspector) none() map[string]*KEKKeys {
	counts := map[string]*KEKKeys{}
	for _, kek := range i.keks {
		counts[kek.ID] = &KEKKeys{KEK: kek}
	}
	return counts
}

func (i *Inspector) count(counts map[string]*KEKKeys, kekID string) *KEKKeys {
	if counts[kekID] == nil {
		counts[kekID] = &KEKKeys{KEK: sealer.KEK{ID: kekID, State: KEKUnknown}}
	}
	return counts[kekID]
}

// inOrder puts the sealer's KEKs first, in its order, and the unknown ones after them.
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
