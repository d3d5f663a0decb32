package gateway

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

// Readiness reports whether requests can be served, and the state in one word. It must be safe for concurrent use.
type Readiness func(ctx context.Context) (ready bool, state string)

// NewOps returns the handler for operators: /healthz answers 200 while the process runs, /readyz 200 or 503 with the
// state, and /metrics what metrics gathers. It requires no credential and shows no secret, but callers should not reach
// it.
func NewOps(metrics prometheus.Gatherer, ready Readiness) http.Handler {
	return lifecycle.NewOpsHandler(metrics, func(ctx context.Context) (bool, any) {
		var answer struct {
			Ready bool   `json:"ready"`
			State string `json:"state"`
		}
		answer.Ready, answer.State = ready(ctx)
		return answer.Ready, answer
	})
}
