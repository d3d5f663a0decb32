package secrets

import (
	"context"
	"errors"

	"github.com/agentrouter/aikeys/impl/httpapi"
)

// permissions are what each operation of the document asks for.
var permissions = map[string]Permission{
	"sealSecret": Seal, "openEnvelope": Open, "rewrapEnvelopes": Rewrap, "listKEKs": Status,
}

// door implements httpapi.Door.
type door struct {
	clients Clients
	audit   *Audit
	metrics *metrics
	// inside has a place for each operation at work, waiting one for each of those and of those that may wait.
	inside, waiting chan struct{}
}

func newDoor(cfg Config) (*door, error) {
	d := &door{
		clients: cfg.Clients, audit: cfg.Audit,
		inside:  make(chan struct{}, cfg.MaxConcurrent),
		waiting: make(chan struct{}, cfg.MaxConcurrent+cfg.MaxQueue),
	}
	var err error
	d.metrics, err = newMetrics(cfg.Metrics, func() int { return len(d.inside) }, func() int { return len(d.waiting) - len(d.inside) })
	return d, err
}

type clientKey struct{}

// clientFrom returns the client that the door has let in.
func clientFrom(ctx context.Context) Client {
	client, _ := ctx.Value(clientKey{}).(Client)
	return client
}

// Admit implements httpapi.Door. A client that may not open and tries to is in the audit too.
func (d *door) Admit(ctx context.Context, call *httpapi.Call) (context.Context, error) {
	identities := Identities(ctx)
	if call.SourceIP == "" && len(identities) > 0 { // a socket has no address
		call.SourceIP = identities[0].String()
	}
	client, known := d.clients.Find(ctx, identities)
	if known {
		call.Client = client.Name
	}
	permission := permissions[call.Operation]
	if known && client.May[permission] {
		return context.WithValue(ctx, clientKey{}, client), nil
	}
	if permission == Open {
		if err := d.audit.turnedAway(ctx, client, identities, call.ID); err != nil {
			return nil, errors.Join(errClientNotAllowed, httpapi.ErrUnrecorded, err)
		}
	}
	return nil, errClientNotAllowed
}

// Enter implements httpapi.Door: what finds no place even to wait is sent away at once.
func (d *door) Enter(ctx context.Context) (leave func(), err error) {
	select {
	case d.waiting <- struct{}{}:
	default:
		return nil, httpapi.ErrBusy
	}
	select {
	case d.inside <- struct{}{}:
		return func() { <-d.inside; <-d.waiting }, nil
	case <-ctx.Done():
		<-d.waiting
		return nil, ctx.Err()
	}
}

// Done implements httpapi.Door.
func (d *door) Done(call *httpapi.Call, err error) { d.metrics.done(call, err) }
