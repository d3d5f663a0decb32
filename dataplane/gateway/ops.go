package gateway

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Readiness reports whether requests can be served, and the state in one word. It must be safe for concurrent use.
type Readiness func(ctx context.Context) (ready bool, state string)

// maxScrapes bounds how many scrapes of the metrics are answered at once.
const maxScrapes = 4

// NewOps returns the handler for operators: /healthz answers 200 while the process runs, /readyz 200 or 503 with the
// state, and /metrics what metrics gathers. It requires no credential and shows no secret, but callers should not reach
// it.
func NewOps(metrics prometheus.Gatherer, ready Readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // the prober may be gone
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		var answer struct {
			Ready bool   `json:"ready"`
			State string `json:"state"`
		}
		answer.Ready, answer.State = ready(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !answer.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(answer) // the prober may be gone
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, EnableOpenMetrics: true,
	}))
	return mux
}
