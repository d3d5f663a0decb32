package dataplane

import (
	"errors"
	"math"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// The types of the stream's messages: those about the stream itself, and the events.
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

// unknownTx stands for the transaction of an event that names none: no position contains it.
const unknownTx = math.MaxInt64

// event is a change that the stream has announced. An empty field was not named, and stands for every value.
type event struct {
	kind                       string
	tx                         int64
	project                    project
	provider, key, user, token string // key and token are ids
}

// project names a customer's project.
type project struct{ customer, name string }

func newEvent(m *gen.StreamMessage) event {
	ev := event{
		kind: m.Type, tx: unknownTx, project: project{valueOf(m.CustomerID), valueOf(m.ProjectID)},
		provider: valueOf(m.Provider), key: valueOf(m.KeyID), user: valueOf(m.UserID), token: valueOf(m.TokenID),
	}
	if m.Tx != nil && *m.Tx >= 0 {
		ev.tx = *m.Tx
	}
	return ev
}

// isUrgent reports whether a person or a program may be waiting for the receipt of the event.
func (ev *event) isUrgent() bool {
	return ev.kind == typeKeyRevoked || ev.kind == typeMemberRemoved || ev.kind == typeTokenRevoked
}

// touches reports whether the answer to an entry's request may have changed with the event. In doubt it returns true.
func (ev *event) touches(e *entry) bool {
	switch ev.kind {
	case typeTokenCreated:
		return errors.Is(e.err, ErrCallerUnauthenticated)
	case typeTokenRevoked:
		if ev.token != "" {
			return e.token == ev.token
		}
	}
	if e.project.customer == "" {
		return ev.mayLiftRefusal(e)
	}
	if !matches(ev.project.customer, e.project.customer) || !matches(ev.project.name, e.project.name) {
		return false
	}
	switch ev.kind {
	case typeKeyRegistered:
		return matches(ev.provider, e.provider) && matches(ev.user, e.user)
	case typeKeyRevoked, typeKeyFailing:
		return ev.key == "" || e.key != nil && e.key.ID == ev.key
	case typeMemberSet, typeMemberRemoved:
		return matches(ev.user, e.user)
	default: // policy.set, and types added in the future
		return true
	}
}

// mayLiftRefusal reports whether the event may end a refusal that does not name the project.
func (ev *event) mayLiftRefusal(e *entry) bool {
	switch ev.kind {
	case typeKeyRegistered:
		if e.keyID != "" {
			return matches(ev.key, e.keyID)
		}
		return matches(ev.provider, e.provider)
	case typeKeyRevoked, typeKeyFailing, typeMemberRemoved:
		return false // these only take access away
	default:
		return true
	}
}

// matches reports whether a field of an event or a request, empty for any value, covers a value.
func matches(field, value string) bool { return field == "" || field == value }

// label returns the event's type for the metric. It is one of a fixed set, whatever the stream sends.
func (ev *event) label() string {
	switch ev.kind {
	case typeKeyRegistered, typeKeyRevoked, typeKeyFailing, typePolicySet, typeMemberSet, typeMemberRemoved,
		typeTokenCreated, typeTokenRevoked:
		return ev.kind
	default:
		return "other"
	}
}
