package gateway

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/agentrouter/aikeys/dataplane"
)

// recheckInterval is the time between two attempts to find out whether a use still serves.
const recheckInterval = time.Second

// ending closes an answer that is still being passed on when the use of its key must end: when the key stops, or the
// caller is revoked. The zero value has no answer yet.
type ending struct {
	mutex sync.Mutex
	// asked carries true if the use must end, and false if the use may have to end. It is nil until request is called.
	asked chan bool
	// close waits for asked and closes the answer. It is nil before there is an answer, and after it has been started.
	close func(asked <-chan bool)
}

// request says that the use must end, or may have to. It does not block.
func (e *ending) request(certain bool) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if e.asked == nil {
		e.asked = make(chan bool, 1)
	}
	select {
	case waiting := <-e.asked:
		certain = certain || waiting
	default:
	}
	e.asked <- certain // only request sends, under the lock
	e.startClosing()
}

// setAnswer sets how to close the answer. It is called when the head of the answer has arrived.
func (e *ending) setAnswer(closing func(asked <-chan bool)) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.close = closing
	e.startClosing()
}

// startClosing starts close when there are both a request and an answer. The caller holds the mutex.
func (e *ending) startClosing() {
	if e.asked != nil && e.close != nil {
		go e.close(e.asked)
		e.close = nil
	}
}

// endAnswer closes an answer when its use has ended: an upgraded connection at once, any other answer after the grace. It
// also returns when the request has ended.
func (g *Gateway) endAnswer(ctx context.Context, p *proxiedRequest, answer io.Closer, isUpgrade bool, asked <-chan bool) {
	for hasEnded := false; !hasEnded; {
		select {
		case <-ctx.Done():
			return
		case certain := <-asked:
			hasEnded = certain || g.hasEnded(ctx, p)
		}
	}
	if !isUpgrade {
		select {
		case <-ctx.Done():
		case <-time.After(g.streamGrace):
		}
	}
	_ = answer.Close() // the reverse proxy reports the error of its read
}

// boundLife closes an upgraded connection that has lasted too long.
func (g *Gateway) boundLife(ctx context.Context, answer io.Closer) {
	if g.upgradeLife > 0 {
		timer := time.AfterFunc(g.upgradeLife, func() { _ = answer.Close() })
		context.AfterFunc(ctx, func() { timer.Stop() })
	}
}

// hasEnded reports whether a request's key is revoked, disabled or expired, or its caller or the gateway itself is
// refused. It is called after events may have been missed. It asks the resolver until there is an answer.
func (g *Gateway) hasEnded(ctx context.Context, p *proxiedRequest) bool {
	for ctx.Err() == nil {
		_, byCaller := g.resolver.Resolve(ctx, p.caller)
		_, byID := g.resolver.Resolve(ctx, dataplane.ByID(p.key.ID))
		switch {
		case isAny(byCaller, dataplane.ErrCallerUnauthenticated, dataplane.ErrNotMember, dataplane.ErrCustomerNotServed,
			dataplane.ErrDataPlaneUnauthenticated),
			isAny(byID, dataplane.ErrKeyRevoked, dataplane.ErrKeyDisabled, dataplane.ErrKeyExpired, dataplane.ErrNotMember,
				dataplane.ErrNoKey, dataplane.ErrCustomerNotServed, dataplane.ErrDataPlaneUnauthenticated):
			return true
		case !errors.Is(byCaller, dataplane.ErrUnavailable) && !errors.Is(byID, dataplane.ErrUnavailable):
			return false
		}
		select {
		case <-ctx.Done():
		case <-time.After(recheckInterval):
		}
	}
	return false
}
