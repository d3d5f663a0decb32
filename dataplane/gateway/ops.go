package gateway

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/agentrouter/aikeys/dataplane"
)

// Readiness tells whether requests can be served, and a word on why. It is called by many goroutines at once.
type Readiness func(ctx context.Context) (ready bool, word string)

// scrapes bounds how many scrapes of the metrics are answered at once.
const scrapes = 4

// NewOps answers /healthz with 200 while the process lives, /readyz with 200 or 503 and the word, and /metrics with
// what metrics gathers. It asks for no credential and tells nothing secret, yet is nothing for callers.
func NewOps(metrics prometheus.Gatherer, ready Readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // a prober that is gone can be told nothing
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		var state struct {
			Ready bool   `json:"ready"`
			State string `json:"state"`
		}
		state.Ready, state.State = ready(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !state.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(state) // a prober that is gone can be told nothing
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapes, EnableOpenMetrics: true,
	}))
	return mux
}

// LeaseReadiness is ready while the resolver holds a lease, and for the grace that it was configured with after that. One
// that has lost both still serves those whom it can ask the control plane for, one by one; send requests elsewhere meanwhile
// if there is an elsewhere.
func LeaseReadiness(status func() dataplane.Status) Readiness {
	return func(context.Context) (bool, string) {
		switch now := status(); {
		case now.Leased:
			return true, "ok"
		case now.GraceRemaining > 0:
			return true, "stale"
		case now.Unauthenticated:
			return false, "unauthenticated"
		case now.Connected:
			return false, "no_lease"
		}
		return false, "disconnected"
	}
}
