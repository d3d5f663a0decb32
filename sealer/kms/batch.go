package kms

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/sealer"
)

// WrapAll implements sealer.BatchKEKs.
func (g *guard) WrapAll(ctx context.Context, items []sealer.KeyItem) ([]sealer.KeyResult, error) {
	results, err := g.sendBatch(ctx, items, BatchKey.WrapAll)
	if err == nil && results == nil {
		return g.sendEach(ctx, items, g.Wrap)
	}
	if err != nil || g.wrapOnly {
		return results, err
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
	var places []int // the indexes of own in items
	for i, item := range items {
		if !g.key.Owns(item.KEKID) {
			all[i].Err = errForeign
			continue
		}
		own, places = append(own, item), append(places, i)
	}
	results, err := g.sendBatch(ctx, own, BatchKey.UnwrapAll)
	if err == nil && results == nil {
		results, err = g.sendEach(ctx, own, g.unwrap)
	}
	if err != nil {
		return nil, err
	}
	for i, result := range results {
		all[places[i]] = result
	}
	return all, nil
}

// sendBatch handles all items in one call. If the caller has to send the items one by one, sendBatch returns neither
// results nor an error. The caller has to do so if the key takes no batches, if there are fewer than two items, or if
// the service refuses this batch, perhaps because of a single item.
func (g *guard) sendBatch(
	ctx context.Context, items []sealer.KeyItem, send func(BatchKey, context.Context, []sealer.KeyItem) ([][]byte, error),
) ([]sealer.KeyResult, error) {
	batch, ok := g.key.(BatchKey)
	if !ok || len(items) < 2 {
		return nil, nil
	}
	keys, err := call(ctx, g, func(ctx context.Context) ([][]byte, error) { return send(batch, ctx, items) })
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

// sendEach handles items one by one with Wrap or Unwrap, several at a time.
func (g *guard) sendEach(
	ctx context.Context, items []sealer.KeyItem, send func(ctx context.Context, kekID string, key, associatedData []byte) ([]byte, error),
) ([]sealer.KeyResult, error) {
	results := make([]sealer.KeyResult, len(items))
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(rewrapCalls)
	for i, item := range items {
		group.Go(func() error {
			key, err := send(limited, item.KEKID, item.Key, item.AssociatedData)
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
