package secrets_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// patience is longer than any step of a test takes, even on a busy machine.
const patience, often = 20 * time.Second, 5 * time.Millisecond

// held is a sealer whose seals block until they are released. It counts how many run at once.
type held struct {
	sealer.Sealer
	release      chan struct{}
	atOnce, most atomic.Int64
}

func (h *held) Seal(ctx context.Context, b sealer.Binding, plain sealer.Secret) (sealer.Envelope, error) {
	now := h.atOnce.Add(1)
	defer h.atOnce.Add(-1)
	for most := h.most.Load(); now > most && !h.most.CompareAndSwap(most, now); most = h.most.Load() {
	}
	select {
	case <-h.release:
	case <-ctx.Done():
		return sealer.Envelope{}, ctx.Err()
	}
	return h.Sealer.Seal(ctx, b, plain)
}

func TestOverloadIsRefusedAtOnce(t *testing.T) {
	const callers, atWork, queue = 200, 4, 16
	backend := &held{Sealer: sealertest.New(t), release: make(chan struct{})}
	s := start(t, options{spaces: spaces{"main": backend}, maxConcurrent: atWork, maxQueue: queue})
	var served, sentAway atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			reply, err := s.client.SealSecretWithResponse(context.Background(), sealRequest("sk-0123456789"))
			switch {
			case err != nil:
				t.Error(err)
			case reply.StatusCode() == http.StatusOK:
				served.Add(1)
			case reply.StatusCode() == http.StatusServiceUnavailable && reply.HTTPResponse.Header.Get("Retry-After") == "1":
				sentAway.Add(1)
			default:
				t.Errorf("status %d", reply.StatusCode())
			}
		})
	}
	// While all running seals are blocked, requests beyond the queue's limit are refused at once.
	require.Eventually(t, func() bool { return sentAway.Load() == callers-atWork-queue }, patience, often)
	require.Zero(t, served.Load())
	require.Equal(t, map[string]float64{
		"secrets_svc_operations_in_flight": atWork, "secrets_svc_queue_length": queue,
	}, s.gauges())
	close(backend.release)
	wg.Wait()
	require.EqualValues(t, atWork+queue, served.Load())
	require.EqualValues(t, atWork, backend.most.Load())
	require.Contains(t, s.log.String(), `"status":503`)
	s.seal(s.marked()) // the service works again
}

func TestCanceledRequestLeavesTheQueue(t *testing.T) {
	backend := &held{Sealer: sealertest.New(t), release: make(chan struct{})}
	s := start(t, options{spaces: spaces{"main": backend}, maxConcurrent: 1, maxQueue: 1})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			_, err := s.client.SealSecretWithResponse(ctx, sealRequest("sk-0123456789"))
			if err == nil {
				t.Error("answered")
			}
		})
	}
	busy := func(want float64) func() bool {
		return func() bool {
			now := s.gauges()
			return now["secrets_svc_operations_in_flight"]+now["secrets_svc_queue_length"] == want
		}
	}
	require.Eventually(t, busy(2), patience, often)
	cancel()
	wg.Wait()
	require.Eventually(t, busy(0), patience, often)
	close(backend.release)
	s.seal(s.marked())
}

// gauges returns the values of the service's gauges, by name.
func (s *service) gauges() map[string]float64 {
	s.t.Helper()
	gathered, err := s.registry.Gather()
	require.NoError(s.t, err)
	found := map[string]float64{}
	for _, family := range gathered {
		if strings.HasPrefix(family.GetName(), "secrets_svc_") && family.GetType().String() == "GAUGE" {
			found[family.GetName()] = family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return found
}
