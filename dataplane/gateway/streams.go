package gateway

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/agentrouter/aikeys/dataplane"
)

// end says that the use of the request's key must end, or may have to. It does not block.
func (p *proxiedRequest) end(certain bool) {
	select {
	case p.ended <- certain:
	default:
		if certain { // which says more than what waits
			select {
			case <-p.ended:
			default:
			}
			select {
			case p.ended <- true:
			default:
			}
		}
	}
}

// recheckInterval is the time between two attempts to find out whether a stream's key still serves.
const recheckInterval = time.Second

// endStream closes an answer that is still being passed on when its key or its caller is revoked: an upgraded connection at once,
// and another answer after the grace. It closes an upgraded connection that has lasted too long, too. It returns when the answer has ended.
func (g *Gateway) endStream(ctx context.Context, p *proxiedRequest, answer io.Closer, isUpgrade bool) {
	var life <-chan time.Time
	if isUpgrade && g.upgradeLife > 0 {
		timer := time.NewTimer(g.upgradeLife)
		defer timer.Stop()
		life = timer.C
	}
	for hasEnded := false; !hasEnded; {
		select {
		case <-ctx.Done():
			return
		case <-life:
			_ = answer.Close() // the reverse proxy reports the error of its read
			return
		case certain := <-p.ended:
			hasEnded = certain || g.hasEnded(ctx, p)
		}
	}
	if !isUpgrade {
		select {
		case <-ctx.Done():
		case <-time.After(g.streamGrace):
		}
	}
	_ = answer.Close()
}

// hasEnded reports whether a request's key is revoked or its caller refused, after events may have been missed. It asks until there
// is an answer.
func (g *Gateway) hasEnded(ctx context.Context, p *proxiedRequest) bool {
	for ctx.Err() == nil {
		_, byCaller := g.resolver.Resolve(ctx, p.caller)
		_, byID := g.resolver.Resolve(ctx, dataplane.ByID(p.key.ID))
		switch {
		case errors.Is(byCaller, dataplane.ErrCallerUnauthenticated), errors.Is(byCaller, dataplane.ErrNotMember),
			errors.Is(byCaller, dataplane.ErrCustomerNotServed), errors.Is(byID, dataplane.ErrCustomerNotServed),
			errors.Is(byID, dataplane.ErrKeyRevoked), errors.Is(byID, dataplane.ErrNotMember), errors.Is(byID, dataplane.ErrNoKey):
			return true
		case !isUndecided(byCaller) && !isUndecided(byID):
			return false
		}
		select {
		case <-ctx.Done():
		case <-time.After(recheckInterval):
		}
	}
	return false
}

// isUndecided reports whether the control plane has not said who is served, or not to this data plane.
func isUndecided(err error) bool {
	return errors.Is(err, dataplane.ErrUnavailable) || errors.Is(err, dataplane.ErrDataPlaneUnauthenticated)
}
