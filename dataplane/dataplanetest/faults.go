package dataplanetest

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Operation is one of the control plane's.
type Operation int

// The operations.
const (
	Fetch Operation = iota
	Report
	Events
	Acknowledge
)

// Fault is a way to fail.
type Fault int

// The ways to fail. Events that are streamed already go on; see Cut and HalfOpen for those.
const (
	Healthy           Fault = iota
	InternalError           // answers 500
	Unavailable             // answers 503
	Hanging                 // takes the request and never answers
	Garbage                 // answers 200 with nonsense
	TooManyRequests         // answers 429
	IssuerUnavailable       // answers 503, as the caller's session token can't be checked
)

type faults struct {
	broken map[Operation]Fault
	delay  time.Duration
	before *Hold // where fetches stop before they look anything up
	after  *Hold // where they stop with their answer in hand
	counts map[Operation]int
}

// SetFault makes operations fail from now on, all of them if none is named; Healthy ends it.
func (cp *ControlPlane) SetFault(fault Fault, operations ...Operation) {
	if len(operations) == 0 {
		operations = []Operation{Fetch, Report, Events, Acknowledge}
	}
	cp.update(func() {
		if cp.broken == nil {
			cp.broken = map[Operation]Fault{}
		}
		for _, op := range operations {
			cp.broken[op] = fault
		}
	})
}

// Count returns how many requests of an operation have come, whatever became of them.
func (cp *ControlPlane) Count(op Operation) int {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return cp.counts[op]
}

// DelayFetches has each fetch wait with its answer.
func (cp *ControlPlane) DelayFetches(d time.Duration) { cp.update(func() { cp.delay = d }) }

// Hold keeps fetches until it is released.
type Hold struct {
	cp       *ControlPlane
	arrived  int
	released bool
}

// HoldRequests keeps fetches that come from now on before they look anything up: what changes meanwhile is in their
// answers. The Hold before, if there is one, is left to those that it keeps.
func (cp *ControlPlane) HoldRequests() *Hold {
	h := &Hold{cp: cp}
	cp.update(func() { cp.before = h })
	return h
}

// HoldAnswers keeps fetches that come from now on when they have their answers: what changes meanwhile overtakes them.
func (cp *ControlPlane) HoldAnswers() *Hold {
	h := &Hold{cp: cp}
	cp.update(func() { cp.after = h })
	return h
}

// Wait waits until n fetches are kept.
func (h *Hold) Wait(n int) {
	h.cp.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !h.cp.await(ctx, func() bool { return h.arrived >= n }) {
		h.cp.t.Fatalf("fewer than %d fetches have come to the hold", n)
	}
}

// Release lets go of the fetches, and lets later ones pass.
func (h *Hold) Release() {
	h.cp.update(func() {
		h.released = true
		if h.cp.before == h {
			h.cp.before = nil
		}
		if h.cp.after == h {
			h.cp.after = nil
		}
	})
}

// keep waits at a hold, if there is one. It returns false if the request ends there.
func (cp *ControlPlane) keep(ctx context.Context, h *Hold) bool {
	if h == nil {
		return true
	}
	cp.update(func() { h.arrived++ })
	return cp.await(ctx, func() bool { return h.released })
}

// guarded has a request fail if it is to, and refuses it without the credential.
func (cp *ControlPlane) guarded(op Operation, handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var fault Fault
		var token string
		cp.update(func() {
			if cp.counts == nil {
				cp.counts = map[Operation]int{}
			}
			cp.counts[op]++
			fault, token = cp.broken[op], cp.token
		})
		switch fault {
		case InternalError:
			refuse(w, http.StatusInternalServerError, "internal", "internal")
		case Unavailable:
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, "unavailable", "unavailable")
		case TooManyRequests:
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusTooManyRequests, "resource-exhausted", "resource_exhausted")
		case IssuerUnavailable:
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, "issuer-unavailable", "unavailable")
		case Hanging:
			// The server notices that the client has gone only once the body is read.
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		case Garbage:
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {\"secret\": 7 <html>\n\n")
		default:
			if r.Header.Get("Authorization") != "Bearer "+token {
				w.Header().Set("WWW-Authenticate", `Bearer realm="aikeys"`)
				refuse(w, http.StatusUnauthorized, "unauthenticated", "unauthenticated")
				return
			}
			handle(w, r)
		}
	}
}
