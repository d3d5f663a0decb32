package sealer

import (
	"context"
	"errors"
	"fmt"
)

// KEKState says what a key-encryption key is there for.
type KEKState string

// The states of a KEK. Nothing is ever deleted: a retired KEK can be enabled again.
const (
	// KEKPrimary is the state of the one KEK that wraps new data keys. It unwraps as well.
	KEKPrimary KEKState = "primary"
	// KEKEnabled is the state of a KEK that unwraps what it has wrapped, and wraps nothing new.
	KEKEnabled KEKState = "enabled"
	// KEKRetired is the state of a KEK that does nothing: envelopes under it are of an unknown KEK.
	KEKRetired KEKState = "retired"
)

// KEK is what may be told of a key-encryption key: all but the key.
type KEK struct {
	ID    string
	State KEKState
}

// KEKLister is a Sealer that can tell its KEKs.
type KEKLister interface {
	// KEKs returns all of them, the primary one first. Error: ErrUnavailable.
	KEKs(ctx context.Context) ([]KEK, error)
}

// ListKEKs returns the KEKs of s, or only the primary one if that is all that s can tell.
func ListKEKs(ctx context.Context, s Sealer) ([]KEK, error) {
	if lister, ok := s.(KEKLister); ok {
		return lister.KEKs(ctx)
	}
	primary, err := s.PrimaryKEK(ctx)
	if err != nil {
		return nil, err
	}
	return []KEK{{ID: primary, State: KEKPrimary}}, nil
}

// Item is one envelope to re-wrap, and what it is.
type Item struct {
	Binding  Binding
	Envelope []byte
}

// Result is what became of an Item: an envelope, or one of the errors that Rewrap returns for that item alone.
type Result struct {
	Envelope Envelope
	Err      error
}

// BatchRewrapper is a Sealer that re-wraps many envelopes for the price of one call.
type BatchRewrapper interface {
	// RewrapAll returns a result for each item, in their order. What can't be re-wrapped has its error there. An error
	// of the call is ErrUnavailable or the context's, and there are no results then.
	RewrapAll(ctx context.Context, items []Item) ([]Result, error)
}

// RewrapAll re-wraps items with s, in one call if s can do so and one by one otherwise, as BatchRewrapper has it.
func RewrapAll(ctx context.Context, s Sealer, items []Item) ([]Result, error) {
	if batch, ok := s.(BatchRewrapper); ok {
		return batch.RewrapAll(ctx, items)
	}
	results := make([]Result, len(items))
	for i, item := range items {
		envelope, err := s.Rewrap(ctx, item.Binding, item.Envelope)
		if ctx.Err() != nil || errors.Is(err, ErrUnavailable) {
			return nil, fmt.Errorf("re-wrap item %d of %d: %w", i+1, len(items), errors.Join(ctx.Err(), err))
		}
		results[i] = Result{Envelope: envelope, Err: err}
	}
	return results, nil
}
