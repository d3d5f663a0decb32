package remote

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/sealer"
)

// The bounds of one request, from spec/secrets.yaml: the number of items, and the bytes of the body without the text around the
// items.
const (
	maxItems = 256
	maxBatch = 1<<20 - 1<<10
)

// RewrapAll implements sealer.BatchRewrapper, with one request per 256 envelopes.
func (s *Sealer) RewrapAll(ctx context.Context, items []sealer.Item) (results []sealer.Result, err error) {
	defer wrap(&err, "re-wrap")
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	results = make([]sealer.Result, len(items))
	var next batch
	for i, item := range items {
		if err := checkItem(item); err != nil {
			results[i].Err = fmt.Errorf("re-wrap: %w", err)
			continue
		}
		if !next.fits(item) {
			if err := s.rewrapBatch(ctx, next, results); err != nil {
				return nil, err
			}
			next = batch{}
		}
		next.add(i, item)
	}
	if len(next.items) > 0 {
		if err := s.rewrapBatch(ctx, next, results); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func checkItem(item sealer.Item) error {
	if err := checkBinding(item.Binding); err != nil {
		return err
	}
	_, err := sealer.KEKIDOf(item.Envelope)
	return err
}

// batch is the content of one request.
type batch struct {
	items  []secrets.OpenRequest
	places []int // the indexes of the items' results
	size   int   // an upper bound of the items' bytes as JSON
}

func (b *batch) fits(item sealer.Item) bool {
	return len(b.items) < maxItems && b.size+sizeOf(item) <= maxBatch
}

func (b *batch) add(place int, item sealer.Item) {
	b.items = append(b.items, wireItem(item.Binding, item.Envelope))
	b.places = append(b.places, place)
	b.size += sizeOf(item)
}

// sizeOf returns an upper bound of an item's bytes as JSON, where a byte of text takes up to six.
func sizeOf(item sealer.Item) int {
	const names, escaped = 160, 6
	b := item.Binding
	text := len(b.CustomerID) + len(b.ProjectID) + len(b.KeyID) + len(b.Provider)
	return names + escaped*text + base64.StdEncoding.EncodedLen(len(item.Envelope))
}

// rewrapBatch sends one batch and stores its results at their places.
func (s *Sealer) rewrapBatch(ctx context.Context, b batch, results []sealer.Result) error {
	// An envelope may grow: the new KEK may wrap the data key to more bytes.
	limit := len(b.items)*1024 + 2*b.size + maxEnvelopeAnswer
	answer, err := s.call(ctx, limit, func(ctx context.Context) (*http.Response, error) {
		return s.client.RewrapEnvelopes(ctx, secrets.RewrapRequest{Items: b.items})
	})
	if err != nil {
		return err
	}
	var wire secrets.RewrapResponse
	if err := json.Unmarshal(answer, &wire); err != nil {
		return garbled("results that are not JSON")
	}
	if len(wire.Results) != len(b.items) {
		return garbled(fmt.Sprintf("%d results for %d envelopes", len(wire.Results), len(b.items)))
	}
	for i, result := range wire.Results {
		if results[b.places[i]], err = resultOf(result); err != nil {
			return err
		}
	}
	return nil
}

func resultOf(wire secrets.RewrapResult) (sealer.Result, error) {
	switch {
	case wire.Problem != nil:
		if sentinel := envelopeProblems[*wire.Problem]; sentinel != nil {
			return sealer.Result{Err: fmt.Errorf("re-wrap: %w", sentinel)}, nil
		}
		return sealer.Result{}, garbled("a result with an unknown problem")
	case wire.KekID == nil || wire.Envelope == nil:
		return sealer.Result{}, garbled("a result that is neither an envelope nor a problem")
	}
	envelope, err := envelopeOf(*wire.KekID, *wire.Envelope)
	return sealer.Result{Envelope: envelope}, err
}
