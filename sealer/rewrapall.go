package sealer

import (
	"context"
	"errors"
	"fmt"
)

// KeyItem has the arguments of KEKs.Wrap or KEKs.Unwrap: a data key or a wrapped data key, its KEK and its associated
// data.
type KeyItem struct {
	KEKID          string
	Key            []byte
	AssociatedData []byte
}

// KeyResult is the outcome for one KeyItem: a key, or an error of Wrap or Unwrap that concerns only this item.
type KeyResult struct {
	Key []byte
	Err error
}

// BatchKEKs are KEKs that handle many data keys at once. Both methods return a result for each item, in their order. If
// the call itself fails, they return ErrUnavailable or the context's error, and no results.
type BatchKEKs interface {
	KEKs
	WrapAll(ctx context.Context, items []KeyItem) ([]KeyResult, error)
	UnwrapAll(ctx context.Context, items []KeyItem) ([]KeyResult, error)
}

// rewrapping is one item on its way from one KEK to another.
type rewrapping struct {
	place   int // index of the item, and of its result
	bound   []byte
	parts   envelopeParts
	dataKey []byte
}

// RewrapAll implements BatchRewrapper.
func (s *envelopeSealer) RewrapAll(ctx context.Context, items []Item) (results []Result, err error) {
	batch, ok := s.keks.(BatchKEKs)
	if !ok {
		return rewrapEach(ctx, s, items)
	}
	defer wrap(&err, "re-wrap")
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	primary, err := primaryOf(ctx, batch)
	if err != nil {
		return nil, err
	}
	results = make([]Result, len(items))
	opened, err := unwrapAll(ctx, batch, items, results)
	defer func() {
		for _, r := range opened {
			clear(r.dataKey)
		}
	}()
	if err == nil {
		err = wrapAll(ctx, batch, primary, opened, results)
	}
	if err != nil {
		return nil, err
	}
	for i, result := range results {
		if errors.Is(result.Err, errRetired) { // another KEK is primary now
			results[i].Envelope, results[i].Err = s.Rewrap(ctx, items[i].Binding, items[i].Envelope)
		} else if result.Err != nil {
			results[i].Err = fmt.Errorf("re-wrap: %w", result.Err)
		}
	}
	return results, nil
}

// errRetired marks the error of wrapping under a KEK that has just ceased to be primary.
var errRetired = errors.New("the primary key-encryption key was retired")

// unwrapAll unwraps the data keys of all items, and stores in results the errors of items whose envelope is not sound.
func unwrapAll(ctx context.Context, keks BatchKEKs, items []Item, results []Result) (opened []rewrapping, err error) {
	var found []rewrapping
	var wrapped []KeyItem
	for i, item := range items {
		r := rewrapping{place: i}
		var associatedData []byte
		r.bound, results[i].Err = item.Binding.AssociatedData()
		if results[i].Err == nil {
			r.parts, results[i].Err = parseEnvelope(item.Envelope)
		}
		if results[i].Err == nil {
			associatedData, results[i].Err = dataKeyContext(r.parts.kekID, r.bound)
		}
		if results[i].Err == nil {
			found = append(found, r)
			wrapped = append(wrapped, KeyItem{KEKID: r.parts.kekID, Key: r.parts.wrapped, AssociatedData: associatedData})
		}
	}
	keys, err := keks.UnwrapAll(ctx, wrapped)
	if err != nil {
		return nil, err
	}
	for i, key := range keys {
		r := found[i]
		if r.dataKey = key.Key; key.Err == nil && len(r.dataKey) != dataKeyLen {
			key.Err = fmt.Errorf("%w: data key has %d bytes, want %d", ErrMalformed, len(r.dataKey), dataKeyLen)
		}
		if key.Err == nil {
			key.Err = checkDataKey(keks, r.parts, r.bound, r.dataKey)
		}
		if results[r.place].Err = key.Err; key.Err == nil {
			opened = append(opened, r)
		}
	}
	return opened, nil
}

// wrapAll wraps the data keys that are not under the primary KEK, and stores all envelopes or errors in results.
func wrapAll(ctx context.Context, keks BatchKEKs, primary string, opened []rewrapping, results []Result) error {
	var todo []rewrapping
	var plain []KeyItem
	for _, r := range opened {
		if r.parts.kekID == primary {
			results[r.place].Envelope, results[r.place].Err = r.parts.encode()
			continue
		}
		associatedData, err := dataKeyContext(primary, r.bound)
		if err != nil {
			return err
		}
		todo = append(todo, r)
		plain = append(plain, KeyItem{KEKID: primary, Key: r.dataKey, AssociatedData: associatedData})
	}
	keys, err := keks.WrapAll(ctx, plain)
	if err != nil {
		return err
	}
	for i, key := range keys {
		result := &results[todo[i].place]
		switch {
		case errors.Is(key.Err, ErrUnknownKEK):
			result.Err = errRetired
		case key.Err != nil:
			result.Err = key.Err
		default:
			result.Envelope, result.Err = envelopeParts{kekID: primary, wrapped: key.Key, payload: todo[i].parts.payload}.encode()
		}
	}
	return nil
}
