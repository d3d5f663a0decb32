// Package telemetry shows operators how the service is doing. It serves liveness, readiness and metrics on a listener of its
// own, without authentication: fixed words, counts and times, nothing secret. It holds no global state. It may import
// internal/lifecycle.
package telemetry

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

// State is the state of one thing that readiness depends on. Every state but OK means not ready, unless the check may fail.
type State string

// The states.
const (
	OK          State = "ok"
	Starting    State = "starting"
	Unavailable State = "unavailable"
	ReadOnly    State = "read-only"
	Pending     State = "pending"
	Draining    State = "draining"
)

// Probe determines a state. It must be safe for concurrent use.
type Probe func(ctx context.Context) State

// Check is one thing that readiness depends on.
type Check struct {
	Name  string
	Probe Probe
	// MayFail reports whether the service counts as ready although this check's state is not OK; nil means never. The
	// answer shows the state in either case.
	MayFail func() bool
}

// NewHandler returns the handler for operators. Readiness depends on the checks.
func NewHandler(metrics prometheus.Gatherer, checks []Check) http.Handler {
	return lifecycle.NewOpsHandler(metrics, func(ctx context.Context) (bool, any) {
		found := readiness{Ready: true, Checks: make(map[string]State, len(checks))}
		for _, check := range checks {
			state := check.Probe(ctx)
			found.Checks[check.Name] = state
			found.Ready = found.Ready && (state == OK || check.MayFail != nil && check.MayFail())
		}
		return found.Ready, found
	})
}

// readiness is the body of an answer of /readyz.
type readiness struct {
	Ready  bool             `json:"ready"`
	Checks map[string]State `json:"checks"`
}

// Cached returns a probe that calls the given probe at most once per ttl, so that many probers cost the database
// little. The context of a call ends after timeout. If a prober disconnects, the others still get the result.
func Cached(probe Probe, timeout, ttl time.Duration) Probe {
	var (
		mu    sync.Mutex
		state State
		until time.Time
	)
	return func(ctx context.Context) State {
		mu.Lock()
		defer mu.Unlock()
		if time.Now().Before(until) {
			return state
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		state = probe(ctx)
		until = time.Now().Add(ttl)
		return state
	}
}
