// Package httpapi is what the HTTP listeners share: one Call for each request with its id, log line, metrics and span;
// authentication and rate limits; validation of requests against the OpenAPI document; and servers that drain. It knows no
// resource. It may import models, and of impl identity, problem, reload and session.
package httpapi

import (
	"context"
	"time"

	"github.com/agentrouter/aikeys/impl/auth"
)

// Call is what is known of the request at hand. Its middleware fills it in on the way to the handler.
type Call struct {
	// ID is a ULID, minted here: a caller's own id could be anything.
	ID string
	// SourceIP is the caller's address, taken from X-Forwarded-For only where a trusted proxy set it.
	SourceIP string
	// Operation is the operationId of the document; empty where no operation matched.
	Operation string
	// Principal is who calls. It is zero before authentication and for operations that need none.
	Principal auth.Principal
	// Client is the name of who calls, where connections tell it: see Door.
	Client string
	// Started is when the request's head was read.
	Started time.Time
	// routine is whether the document marks the operation x-routine: it is logged only when debugging, unless it fails.
	routine bool
	// checked is set once the request passed everything that its operation asks for.
	checked bool
	// body is what a Door has let in; nil where there is none.
	body *heldBody
	// Err is the error that the problem document was made from; nil on success.
	Err error
}

type callKey struct{}

// CallFrom returns the call that ctx belongs to, an empty one outside any.
func CallFrom(ctx context.Context) *Call {
	if call, ok := ctx.Value(callKey{}).(*Call); ok {
		return call
	}
	return &Call{}
}

func withCall(ctx context.Context, call *Call) context.Context {
	return context.WithValue(ctx, callKey{}, call)
}
