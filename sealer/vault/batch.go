package vault

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/agentrouter/aikeys/sealer"
)

// WrapAll implements kms.BatchKey.
func (k *transitKey) WrapAll(ctx context.Context, items []sealer.KeyItem) ([][]byte, error) {
	batch := make([]map[string]any, len(items))
	prefixes := make([]string, len(items))
	for i, item := range items {
		version, _ := k.cfg.versionOf(item.KEKID)
		prefixes[i] = prefixOf(version)
		batch[i] = map[string]any{"plaintext": item.Key, "associated_data": item.AssociatedData, "key_version": version}
	}
	texts, err := k.callBatch(ctx, "encrypt", "ciphertext", batch)
	if err != nil {
		return nil, err
	}
	return decodeAll(texts, prefixes)
}

// UnwrapAll implements kms.BatchKey.
func (k *transitKey) UnwrapAll(ctx context.Context, items []sealer.KeyItem) ([][]byte, error) {
	batch := make([]map[string]any, len(items))
	for i, item := range items {
		version, _ := k.cfg.versionOf(item.KEKID)
		batch[i] = map[string]any{
			"ciphertext": prefixOf(version) + base64.StdEncoding.EncodeToString(item.Key), "associated_data": item.AssociatedData,
		}
	}
	texts, err := k.callBatch(ctx, "decrypt", "plaintext", batch)
	if err != nil {
		return nil, err
	}
	return decodeAll(texts, make([]string, len(texts)))
}

// callBatch returns one member of each result, in the order of the batch.
func (k *transitKey) callBatch(ctx context.Context, operation, member string, batch []map[string]any) ([]string, error) {
	answer, err := k.call(ctx, operation, map[string]any{"batch_input": batch})
	if err != nil {
		return nil, err
	}
	results, _ := answer["batch_results"].([]any)
	if len(results) != len(batch) {
		return nil, fmt.Errorf("%w: %d results for a batch of %d", errGarbled, len(results), len(batch))
	}
	texts := make([]string, len(results))
	for i, result := range results {
		members, _ := result.(map[string]any)
		text, ok := members[member].(string)
		if !ok {
			return nil, k.refuse("an item of a batch failed") // a call for only that item gives the reason
		}
		texts[i] = text
	}
	return texts, nil
}

// decodeAll decodes texts, each with its prefix.
func decodeAll(texts, prefixes []string) ([][]byte, error) {
	keys := make([][]byte, len(texts))
	for i, text := range texts {
		var err error
		if keys[i], err = decode(text, prefixes[i]); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
