package sealer

import (
	"context"
	"errors"
	"fmt"
)

// KEKState says what a key-encryption key is used for.
type KEKState string

// The states of a KEK. Nothing is ever deleted: a retired KEK can be enabled again.
const (
	// KEKPrimary is the state of the one KEK that wraps new data keys. It unwraps as well.
	KEKPrimary KEKState = "primary"
	// KEKEnabled is the state of a KEK that unwraps what it has wrapped, and wraps nothing new.
	KEKEnabled KEKState = "enabled"
	// KEKRetired is the state of a KEK that is not used: opening an envelope under it gives ErrUnknownKEK.
	KEKRetired KEKState = "retired"
)

// KEK describes a key-encryption key without the key itself.
type KEK struct {
	ID    string   `json:"id"`
	State KEKState `json:"state"`
}

// Item is one envelope to re-wrap and its binding.
type Item struct {
	Binding  Binding
	Envelope []byte
}

// Result is the outcome for one Item: an envelope, or an error of Rewrap that concerns only this item.
type Result struct {
	Envelope Envelope
	Err      error
}

// BatchRewrapper is a Sealer that re-wraps many envelopes in one call.
type BatchRewrapper interface {
	// RewrapAll returns a result for each item, in their order. An item that can't be re-wrapped has its error in its
	// result. If the call itself fails, it returns ErrUnavailable or the context's error, and no results.
	RewrapAll(ctx context.Context, items []Item) ([]Result, error)
}

// RewrapAll re-wraps items with s, in one call if s is a BatchRewrapper and one by one otherwise. Its results and errors are
// those of BatchRewrapper.
func RewrapAll(ctx context.Context, s Sealer, items []Item) ([]Result, error) {
	if batch, ok := s.(BatchRewrapper); ok {
		return batch.RewrapAll(ctx, items)
	}
	return rewrapEach(ctx, s, items)
}

// rewrapEach re-wraps items one by one.
func rewrapEach(ctx context.Context, s Sealer, items []Item) ([]Result, error) {
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
