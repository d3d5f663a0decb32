package gateway_test

import (
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

// BenchmarkStreamedResponses passes 100,000 streamed responses on, and tells how much larger the heap is after them than it
// was after the first tenth: a ratio of 1 is flat.
func BenchmarkStreamedResponses(b *testing.B) {
	const streams, clients = 100_000, 64
	upstream := provider(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			_, _ = io.WriteString(w, "data: {\"choices\":[]}\n\n")
			flush(w)
		}
	})
	ours, err := gateway.New(gateway.Config{
		Resolver: cached{newKey(b, "openai", dataplane.AuthBearer, upstream+"/v1", secret)},
		Log:      slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(b, err)
	b.Cleanup(ours.Close)
	address := benchServer(b, ours)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	b.Cleanup(client.CloseIdleConnections)
	pass := func(n int) {
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for range n / clients {
					if err := stream(client, address); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	for b.Loop() {
		pass(streams / 10)
		early := heap()
		pass(streams - streams/10)
		late := heap()
		b.ReportMetric(late/early, "heap-ratio")
		b.ReportMetric(late/(1<<20), "heap-MiB")
	}
}

func stream(client *http.Client, address string) error {
	req, err := http.NewRequest(http.MethodPost, "http://"+address+"/openai/chat/completions", http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+callersKey)
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return err
}

// heap is what is in use after garbage was collected, in bytes.
func heap() float64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}
