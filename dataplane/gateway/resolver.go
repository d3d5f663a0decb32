package gateway

import (
	"context"

	"github.com/agentrouter/aikeys/dataplane"
)

// Resolver finds keys; dataplane.Resolver is one. Its methods are called by many goroutines at once.
type Resolver interface {
	// Resolve returns the key that serves a caller. Its errors wrap dataplane's sentinels.
	Resolve(ctx context.Context, request dataplane.Request) (*dataplane.Key, error)
	// Report takes down the status that the provider answered with when the key was used.
	Report(key *dataplane.Key, status int)
}
