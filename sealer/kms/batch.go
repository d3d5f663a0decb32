package kms

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/sealer"
)

// WrapAll implements sealer.BatchKEKs.
func (g *guard) WrapAll(ctx context.Context, items []sealer.KeyItem) ([]sealer.KeyResult, error) {
	batch, ok := g.key.(BatchKey)
	if !ok || len(items) < 2 {
		return g.each(ctx, items, g.Wrap)
	}
	results, err := g.inBatch(ctx, items, batch.WrapAll)
	if err != nil || results == nil || g.wrapOnly {
		return g.orEach(ctx, items, results, err, g.Wrap)
	}
	wrapped := make([]sealer.KeyItem, len(items))
	for i, item := range items {
		wrapped[i] = sealer.KeyItem{KEKID: item.KEKID, Key: results[i].Key, AssociatedData: item.AssociatedData}
	}
	proofs, err := g.UnwrapAll(ctx, wrapped)
	if err != nil {
		return nil, err
	}
	for i, proof := range proofs {
		if !isSame(proof.Key, items[i].Key, proof.Err) {
			return nil, errUnproven
		}
		clear(proof.Key)
	}
	return results, nil
}

// UnwrapAll implements sealer.BatchKEKs.
func (g *guard) UnwrapAll(ctx context.Context, items []sealer.KeyItem) ([]sealer.KeyResult, error) {
	all := make([]sealer.KeyResult, len(items))
	var own []sealer.KeyItem
	var places []int
	for i, item := range items {
		if !g.key.Owns(item.KEKID) {
			all[i].Err = errForeign
			continue
		}
		own, places = append(own, item), append(places, i)
	}
	results, err := g.unwrapOwn(ctx, own)
	if err != nil {
		return nil, err
	}
	for i, result := range results {
		all[places[i]] = result
	}
	return all, nil
}

func (g *guard) unwrapOwn(ctx context.Context, items []sealer.KeyItem) ([]sealer.KeyResult, error) {
	batch, ok := g.key.(BatchKey)
	if !ok || len(items) < 2 {
		return g.each(ctx, items, g.unwrap)
	}
	results, err := g.inBatch(ctx, items, batch.UnwrapAll)
	return g.orEach(ctx, items, results, err, g.unwrap)
}

// inBatch handles all items in one call. It returns no results and no error if the service refuses the batch: perhaps for one item.
func (g *guard) inBatch(
	ctx context.Context, items []sealer.KeyItem, send func(context.Context, []sealer.KeyItem) ([][]byte, error),
) ([]sealer.KeyResult, error) {
	keys, err := call(ctx, g, func(ctx context.Context) ([][]byte, error) { return send(ctx, items) })
	if err != nil {
		if isOutage(err) {
			return nil, err
		}
		return nil, nil
	}
	results := make([]sealer.KeyResult, len(keys))
	for i, key := range keys {
		results[i].Key = key
	}
	return results, nil
}

// operation is Wrap or Unwrap.
type operation func(ctx context.Context, kekID string, key, associatedData []byte) ([]byte, error)

// orEach returns the outcome of a batch. If the batch has failed as a whole, it handles the items one by one.
func (g *guard) orEach(ctx context.Context, items []sealer.KeyItem, results []sealer.KeyResult, err error, one operation) ([]sealer.KeyResult, error) {
	if err != nil || results != nil {
		return results, err
	}
	return g.each(ctx, items, one)
}

// each handles items one by one, some at once.
func (g *guard) each(ctx context.Context, items []sealer.KeyItem, one operation) ([]sealer.KeyResult, error) {
	results := make([]sealer.KeyResult, len(items))
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(rewrapCalls)
	for i, item := range items {
		group.Go(func() error {
			key, err := one(limited, item.KEKID, item.Key, item.AssociatedData)
			if limited.Err() != nil || errors.Is(err, sealer.ErrUnavailable) {
				return errors.Join(limited.Err(), err)
			}
			results[i] = sealer.KeyResult{Key: key, Err: err}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return results, nil
}
