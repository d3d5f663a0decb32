package lifecycle

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes bounds concurrent scrapes of the metrics.
const maxScrapes = 4

// Readiness reports whether a program can serve requests, and returns a JSON value that says why. It must be safe for concurrent use.
type Readiness func(ctx context.Context) (ready bool, why any)

// NewOpsHandler returns the handler for operators. It answers /healthz with 200, /readyz with 200 or 503 and what readiness returned, and
// /metrics. It requires no authentication and reveals no secret.
func NewOpsHandler(metrics prometheus.Gatherer, readiness Readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // the client may be gone
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ready, why := readiness(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(why) // the client may be gone
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, EnableOpenMetrics: true,
	}))
	return mux
}
