package dataplane

import (
	"errors"
	"math"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// The types of the stream's messages.
const (
	typeHello     = "hello"
	typeHeartbeat = "heartbeat"
	typeReset     = "reset"

	typeKeyRegistered = "key.registered"
	typeKeyRevoked    = "key.revoked"
	typeKeyFailing    = "key.failing"
	typePolicySet     = "policy.set"
	typeMemberSet     = "member.set"
	typeMemberRemoved = "member.removed"
	typeTokenCreated  = "token.created"
	typeTokenRevoked  = "token.revoked"
)

// unknownTx stands for the transaction of an event that has none: no position holds it.
const unknownTx = math.MaxUint64

// event is a change. A field that is empty was not told, and stands for all.
type event struct {
	kind                     string
	tx                       uint64
	project                  project
	provider, key, user, tok string
}

// project names a customer's project.
type project struct{ customer, name string }

func newEvent(m *gen.StreamMessage) event {
	ev := event{
		kind: m.Type, tx: unknownTx, project: project{value(m.CustomerID), value(m.ProjectID)},
		provider: value(m.Provider), key: value(m.KeyID), user: value(m.UserID), tok: value(m.TokenID),
	}
	if m.Tx != nil && *m.Tx >= 0 {
		ev.tx = uint64(*m.Tx)
	}
	return ev
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// urgent tells the events whose receipt somebody may be waiting for.
func (ev *event) urgent() bool {
	return ev.kind == typeKeyRevoked || ev.kind == typeMemberRemoved || ev.kind == typeTokenRevoked
}

// touches tells whether an answer may be another one since the event. It errs on the side of yes.
func (ev *event) touches(e *entry) bool {
	switch ev.kind {
	case typeTokenCreated:
		return errors.Is(e.err, ErrCallerUnauthenticated)
	case typeTokenRevoked:
		if ev.tok != "" {
			return e.token == ev.tok
		}
	}
	if e.project.customer == "" {
		return ev.mayAdmit(e)
	}
	if !fits(ev.project.customer, e.project.customer) || !fits(ev.project.name, e.project.name) {
		return false
	}
	switch ev.kind {
	case typeKeyRegistered:
		return fits(ev.provider, e.provider) && fits(ev.user, e.user)
	case typeKeyRevoked, typeKeyFailing:
		return ev.key == "" || e.key != nil && e.key.ID == ev.key
	case typeMemberSet, typeMemberRemoved:
		return fits(ev.user, e.user)
	default: // policy.set, and whatever else there will be
		return true
	}
}

// mayAdmit tells whether the event may end a refusal that was given without saying for which project.
func (ev *event) mayAdmit(e *entry) bool {
	switch ev.kind {
	case typeKeyRegistered:
		if e.keyID != "" {
			return fits(ev.key, e.keyID)
		}
		return fits(ev.provider, e.provider)
	case typeKeyRevoked, typeKeyFailing, typeMemberRemoved:
		return false // they take away
	default:
		return true
	}
}

// fits compares what an event tells with what an entry has.
func fits(told, have string) bool { return told == "" || told == have }

// label is the event's type for the metric, which must not grow with what the stream sends.
func (ev *event) label() string {
	switch ev.kind {
	case typeKeyRegistered, typeKeyRevoked, typeKeyFailing, typePolicySet, typeMemberSet, typeMemberRemoved,
		typeTokenCreated, typeTokenRevoked:
		return ev.kind
	default:
		return "other"
	}
}
