package dataplanetest

import (
	"context"
	"io"
	"net/http"
	"time"
)

// Operation is an operation of the control plane's API.
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

// The ways to fail. Open streams continue; see Cut and HalfOpen for those.
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

// Count returns the number of requests of an operation, including failed ones.
func (cp *ControlPlane) Count(op Operation) int {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return cp.counts[op]
}

// DelayFetches delays the answer to each fetch.
func (cp *ControlPlane) DelayFetches(d time.Duration) { cp.update(func() { cp.delay = d }) }

// Hold holds fetches until it is released.
type Hold struct {
	cp       *ControlPlane
	arrived  int
	released bool
}

// HoldRequests holds further fetches before they read the state: their answers include what changes while they wait. A
// previous Hold keeps the fetches that it already holds.
func (cp *ControlPlane) HoldRequests() *Hold {
	h := &Hold{cp: cp}
	cp.update(func() { cp.before = h })
	return h
}

// HoldAnswers holds further fetches once they have their answers: these are older than what changes while they wait.
func (cp *ControlPlane) HoldAnswers() *Hold {
	h := &Hold{cp: cp}
	cp.update(func() { cp.after = h })
	return h
}

// Wait waits until n fetches are held.
func (h *Hold) Wait(n int) {
	h.cp.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !h.cp.await(ctx, func() bool { return h.arrived >= n }) {
		h.cp.t.Fatalf("fewer than %d fetches have come to the hold", n)
	}
}

// Release releases the fetches, and holds no later ones.
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

// keep waits at a hold, if there is one, and reports whether the request continues.
func (cp *ControlPlane) keep(ctx context.Context, h *Hold) bool {
	if h == nil {
		return true
	}
	cp.update(func() { h.arrived++ })
	return cp.await(ctx, func() bool { return h.released })
}

// guarded applies the fault of an operation, and refuses requests without the credential.
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
