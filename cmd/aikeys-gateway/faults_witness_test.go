package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

const (
	// held is the duration from which a trivial request shows that the process got no processor time, because of other tests or
	// other machines on the same host.
	held = 100 * time.Millisecond
	// look is the interval at which a witness sends a request.
	look = 20 * time.Millisecond
)

// witness records when this process got no processor time. Leases then expire, as they must, and requests are refused without any
// fault of the program.
type witness struct {
	mu    sync.Mutex
	times []window
}

// newWitness starts a witness, which stops when the test ends.
func newWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	looking.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			if response, err := server.Client().Get(server.URL); err == nil {
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			}
			time.Sleep(look)
			w.note(window{began, time.Now()})
		}
	})
	t.Cleanup(func() {
		cancel()
		looking.Wait()
		server.Close()
	})
	return w
}

func (w *witness) note(took window) {
	if took.to.Sub(took.from) < held {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.times = append(w.times, took)
}

// windows are the times in which requests may be refused for want of a processor: a lease's length before one was seen
// to be wanting, when heartbeats may already have been, until all must be well again.
func (w *witness) windows() (all []window) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, took := range w.times {
		all = append(all, window{took.from.Add(-lease), took.to.Add(back)})
	}
	return all
}
